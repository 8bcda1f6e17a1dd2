"""A module's own line that begins with `WARNING: ` is distinguished from each form of the kernel's WARN()."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from harness.verdict import pr_warn_lines_of_modules
from harness.verdict.complaints import read_complaints

LINE = "[    1.000000] WARNING: seen 3 times\n"
WARN_6_1 = "WARNING: CPU: 0 PID: 2 at who.c:20 warns_init+0x1b/0x1000 [who_calls]"
WARN_6_18 = "WARNING: who.c:20 at warns_init+0x1b/0x1000 [who_calls], CPU#0: insmod/211"
TRACE = """\
[    1.000001] Call Trace:
[    1.000002]  dump_stack_lvl+0x44/0x5c
[    1.000003]  before+0xa/0x11 [who_calls]
"""


def own(log: str, *texts: str) -> list[bool]:
    return [
        pr_warn_lines_of_modules.is_warning_printed_by_module(complaint, texts, {"who_calls"})
        for complaint in read_complaints(log, timed=True)
    ]


class Section(NamedTuple):
    name: str
    size: int
    in_file: bool = True


class File:
    """As much of a module's file as is read."""

    duplicated_section_names = frozenset({".twice"})

    def __init__(self, data: bytes) -> None:
        self.data = data
        others = [Section(".bss", 9, in_file=False), Section(".twice", 9)]
        self.allocated_sections = [Section(".rodata.str1.1", len(data)), *others]

    def section_bytes(self, name: str, offset: int, size: int) -> bytes:
        assert name == ".rodata.str1.1"
        return self.data[offset : offset + size]


def texts_of(data: bytes) -> set[str]:
    return set(pr_warn_lines_of_modules.warning_texts_in_module_file(File(data)))  # type: ignore[arg-type]


def test_a_modules_own_line_is_no_complaint() -> None:
    assert own(LINE, "WARNING: seen ") == [True]
    assert own(LINE + LINE, "WARNING: seen ") == [True, True]
    assert own(LINE + TRACE, "WARNING: seen ") == [True]


def test_a_modules_own_line_behind_its_own_backtrace_is_no_complaint() -> None:
    assert own(TRACE + LINE, "WARNING: seen ") == [True]
    assert own(TRACE + LINE + TRACE, "WARNING: seen ") == [True]
    assert own(TRACE.replace("who_calls", "other") + LINE, "WARNING: seen ") == [False]
    assert own(f"[    0.900000] ------------[ cut here ]------------\n{TRACE}{LINE}", "WARNING: seen ") == [False]


def test_a_line_that_no_module_has_is_a_complaint() -> None:
    assert own(LINE) == [False]
    assert own(LINE, "WARNING: other ") == [False]


@pytest.mark.parametrize("line", [WARN_6_1, WARN_6_18, WARN_6_1.replace("who.c:20 ", "")])
def test_a_warn_is_a_complaint_though_the_module_has_its_text(line: str) -> None:
    assert own(f"[    1.000000] {line}\n", line) == [False]


def test_the_message_of_a_warn_is_a_complaint() -> None:
    log = f"[    0.900000] ------------[ cut here ]------------\n{LINE}[    1.000001] {WARN_6_1}\n"
    assert own(log, "WARNING: seen ") == [False, False]


def test_what_the_kernel_prints_behind_it_is_a_complaint() -> None:
    dump = "[    1.000001] IASQ: 00000000 00000000 IAOQ: 102c4a60 102c4a64\n"
    assert own(LINE + dump, "WARNING: seen ") == [False]
    assert own(LINE + TRACE.replace("who_calls", "other"), "WARNING: seen ") == [False]
    assert own(LINE + "[    1.000001] BUG: Bad page state\n", "WARNING: seen ") == [True, False]


def test_formats_are_read_up_to_their_first_conversion() -> None:
    assert texts_of(b"\x014WARNING: seen %d times\n\0WARNING: plain\n\0") == {"WARNING: seen ", "WARNING: plain"}


def test_a_format_that_matches_each_line_is_none() -> None:
    assert texts_of(b"\x014WARNING: %s\n\0") == set()


def test_a_text_within_another_is_none() -> None:
    assert texts_of(b"no WARNING: seen\0") == set()
