"""Kernel complaints are read from logs and mapped to verdicts."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_logs import HEALTHY, KASAN, LINES, LOGS, PARISC_FAULT, SLUB_WARNING, X86_OOPS, printed

from harness.images.vm_recipe import BootNoise
from harness.verdict.cell_verdict_enum import Verdict
from harness.verdict.complaint_kinds import ComplaintKind
from harness.verdict.complaints import (
    confirmed_by_dmesg,
    is_only_complaint,
    read_complaints,
    read_sorted_complaints,
    sort_by_recipe_boot_noise,
)

CUT_AT_EVERY_BYTE = {"parisc_terminate", "parisc user fault", "x86 BUG_ON", "OOM"}


@pytest.mark.parametrize("name", LOGS)
def test_every_log_is_read_right(name: str) -> None:
    text, expected = LOGS[name]
    assert [
        (complaint.kind, complaint.source_place) for complaint in read_complaints(HEALTHY + printed(text, start=30.0))
    ] == expected


@pytest.mark.parametrize(("kind", "line"), LINES)
def test_every_first_line_is_known(kind: ComplaintKind, line: str) -> None:
    (complaint,) = read_complaints(printed(line))
    assert (complaint.kind, complaint.headline) == (kind, line)


def test_a_healthy_log_is_silent() -> None:
    assert read_complaints(HEALTHY) == []
    assert read_complaints("") == []


@pytest.mark.parametrize("name", LOGS)
def test_the_form_of_the_log_does_not_matter(name: str) -> None:
    text, _ = LOGS[name]
    log = HEALTHY + printed(text, start=30.0)
    expected = [(complaint.kind, complaint.headline, complaint.source_place) for complaint in read_complaints(log)]
    time = re.compile(r"^(\[ *\d+\.\d+\]) ", re.MULTILINE)
    forms = {
        "CRLF": log.replace("\n", "\r\n"),
        "CR CR LF": log.replace("\n", "\r\r\n"),
        "colors": time.sub("\x1b[32m\\1\x1b[0;1;31m ", log).replace("\n", "\x1b[0m\n"),
        "callers": time.sub(r"\1[    T1] ", log),
        "dmesg -r": time.sub(r"<4>\1 ", log),
        "no times": time.sub("", log),
        "bytes": log.encode(),
        "unfinished lines of a program": time.sub(r"login: \1 ", log),
    }
    for form, changed in forms.items():
        found = [(complaint.kind, complaint.headline, complaint.source_place) for complaint in read_complaints(changed)]
        assert found == expected, form


@pytest.mark.parametrize("name", LOGS)
def test_a_log_cut_at_any_byte_is_read_and_nothing_is_invented(name: str) -> None:
    text, expected = LOGS[name]
    whole = (HEALTHY.splitlines(keepends=True)[0] + printed(text, start=30.0)).encode()
    kinds = {kind for kind, _ in expected} | {ComplaintKind.WARNING, ComplaintKind.TRACE, ComplaintKind.FAULT}
    for cut in range(0, len(whole), 1 if name in CUT_AT_EVERY_BYTE else 13):
        assert len(read_complaints(whole[:cut])) <= len(expected)
        assert {complaint.kind for complaint in read_complaints(whole[cut:])} <= kinds


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_garbage_never_raises(garbage: bytes) -> None:
    read_complaints(garbage)
    read_complaints(printed(X86_OOPS).encode() + garbage)
    read_complaints(garbage + printed(KASAN).encode())


def test_other_output_between_the_lines_changes_nothing() -> None:
    lines = printed(X86_OOPS).splitlines(keepends=True)
    noisy = "".join(f"{line}cat: {index} bytes\n" for index, line in enumerate(lines))
    assert [complaint.headline for complaint in read_complaints(noisy)] == [
        complaint.headline for complaint in read_complaints(printed(X86_OOPS))
    ]


def test_what_a_program_writes_to_the_console_is_not_the_kernels() -> None:
    forged = X86_OOPS + KASAN + "Kernel panic - not syncing: I am a shell script\n"
    forged += "0,339,5140900,-;BUG: in the form of /dev/kmsg\n"
    assert read_complaints(HEALTHY + forged) == []
    assert len(read_complaints(HEALTHY + forged + printed(KASAN))) == 1


@pytest.mark.parametrize("before", ["", "a program's output"])
def test_messages_that_the_console_lost_are_a_complaint(before: str) -> None:
    """The kernel prints this line without a time, in front of the next record that it still has."""
    log = f"{HEALTHY}{before}** 17 printk messages dropped **\r\n[    9.000000] random: crng init done\n"
    (found,) = read_complaints(log, timed=True)
    assert (found.kind, found.headline) == (ComplaintKind.DROPPED, "** 17 printk messages dropped **")
    assert confirmed_by_dmesg([found], "<6>[    1.000000] all that the ring holds\n") == [found]


def test_a_programs_line_in_kmsg_is_known_by_its_facility() -> None:
    raw = "<4>[    1.000000] Linux version 6.1.0\n<12>[   12.000000] Kernel panic - not syncing: forged\n"
    assert read_complaints(raw) == []
    assert len(read_complaints(raw + "<0>[   13.000000] Kernel panic - not syncing: real\n")) == 1
    assert read_complaints("12,339,5140900,-;BUG: forged\n") == []
    assert len(read_complaints("4,339,5140900,-;BUG: real\n")) == 1


def test_a_forged_time_is_found_out_by_the_kernels_own_log() -> None:
    real, forged = printed(SLUB_WARNING, start=5.0), printed("Kernel panic - not syncing: forged", start=9.0)
    on_console = read_complaints(HEALTHY + real + forged)
    assert len(on_console) == 2
    dmesg = "".join(f"<4>{line}\n" for line in real.splitlines())
    assert [complaint.source_place for complaint in confirmed_by_dmesg(on_console, dmesg)] == ["mm/slub.c:5134"]
    wrapped = "<6>[  900.000000] all that the ring still holds\n"
    assert confirmed_by_dmesg(on_console, wrapped) == on_console


def test_boot_noise_is_allowed_by_its_exact_place_only() -> None:
    complaints = read_complaints(
        printed(SLUB_WARNING) + printed(SLUB_WARNING.replace("5134", "513"), start=14) + printed(X86_OOPS)
    )
    sorted_ = sort_by_recipe_boot_noise(
        complaints, [BootNoise(place="mm/slub.c:5134", why="QEMU 7.2 firmware reports no cache")]
    )
    assert [complaint.source_place for complaint, _ in sorted_.allowed] == ["mm/slub.c:5134"]
    assert [complaint.source_place for complaint in sorted_.alarming] == ["mm/slub.c:513", "bad_init"]
    assert sort_by_recipe_boot_noise(complaints, []).allowed == ()


def test_a_complaint_ends_at_its_marker_or_at_a_pause() -> None:
    assert "RIP" not in read_complaints(printed(X86_OOPS))[0].lines[-1]
    (fault,) = read_complaints(printed(PARISC_FAULT, start=5.0) + printed("pinpoint_target: later news", start=60.0))
    assert not any("later news" in line for line in fault.lines)


def test_verdicts_of_complaints() -> None:
    assert {complaint.verdict for complaint in read_complaints(printed(KASAN))} == {Verdict.OOPS}
    assert read_complaints(printed("Kernel panic - not syncing: x"))[0].verdict is Verdict.PANIC
    assert read_complaints(printed("watchdog: BUG: soft lockup - CPU#0 stuck for 26s!"))[0].verdict is Verdict.HANG


def test_severity() -> None:
    assert Verdict.PASS.worse_of(Verdict.OOPS) is Verdict.OOPS
    assert Verdict.HARNESS_ERROR.worse_of(Verdict.PANIC) is Verdict.HARNESS_ERROR
    assert {verdict for verdict in Verdict if verdict.acceptable} == {Verdict.PASS, Verdict.SKIP, Verdict.KNOWN_FAIL}


UPROBE_WARNING = """[  855.103362] ------------[ cut here ]------------
[  855.107903] WARNING: CPU: 0 PID: 1742 at kernel/events/uprobes.c:1980 uprobe_deny_signal+0x88/0x100
[  855.109294] CPU: 0 PID: 1742 Comm: pinpoint_runner Tainted: G           OE      6.1.0-50-armmp #1  Debian 6.1.176-1
[  855.149133]  warn_slowpath_fmt from uprobe_deny_signal+0x88/0x100
[  855.190280] ---[ end trace 0000000000000000 ]---
"""


@pytest.mark.parametrize(
    ("printed", "is_documented"),
    [
        pytest.param(UPROBE_WARNING, True, id="documented"),
        pytest.param(UPROBE_WARNING.replace("uprobe_deny_signal", "handle_swbp"), False, id="another function"),
        pytest.param(UPROBE_WARNING.replace("events/uprobes.c", "kprobes.c"), False, id="another file"),
        pytest.param(UPROBE_WARNING + UPROBE_WARNING.replace("[  855", "[  856"), False, id="twice"),
        pytest.param(
            UPROBE_WARNING + UPROBE_WARNING.replace("uprobe_deny_signal", "handle_swbp"),
            False,
            id="with another complaint",
        ),
        pytest.param("", False, id="none"),
    ],
)
def test_only_the_documented_warning_is_a_known_failure(printed: str, is_documented: bool) -> None:
    complaints = read_sorted_complaints(printed, ()).alarming
    assert is_only_complaint(complaints, "kernel/events/uprobes.c", "uprobe_deny_signal") is is_documented
