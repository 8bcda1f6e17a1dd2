"""The logs that real guests printed when a module fired crash triggers in them are read correctly.

There is one log for each trigger: `tests/console_logs/VM/TRIGGER.console` is the serial log, `.dmesg` the output of
`dmesg -r`. `tests/console_logs/expected.toml` has the expected complaints; each line was checked against its log by
eye.
"""

from __future__ import annotations

import random
import re
import tomllib
from pathlib import Path

import pytest

from harness.verdict.complaint_kinds import ComplaintKind
from harness.verdict.complaints import Complaint, read_complaints

DIRECTORY = Path(__file__).with_name("console_logs")
LOGS = sorted(path for path in DIRECTORY.glob("*/*.*") if path.suffix in (".console", ".dmesg"))
EXPECTED = tomllib.loads((DIRECTORY / "expected.toml").read_text())
# Kinds that a log cut in the preamble of a headline may be read as.
PREAMBLES = {ComplaintKind.WARNING, ComplaintKind.TRACE, ComplaintKind.FAULT, ComplaintKind.BUG}
EVERY_BYTE = {"x86_64-debian/bug.console", "parisc/stray_break.console"}
TIME = re.compile(r"^((?:<\d+>)?\[ *\d+\.\d+\]) ", re.MULTILINE)


def named(path: Path) -> str:
    return str(path.relative_to(DIRECTORY))


def expected(path: Path) -> list[tuple[ComplaintKind, str]]:
    return [(ComplaintKind[kind], place) for kind, place in EXPECTED[path.parent.name][path.stem]]


def found(log: str | bytes) -> list[tuple[ComplaintKind, str]]:
    return [(complaint.kind, complaint.source_place) for complaint in read_complaints(log)]


def test_every_log_is_expected_and_every_expectation_has_a_log() -> None:
    consoles = {named(path) for path in LOGS if path.suffix == ".console"}
    assert consoles == {f"{vm}/{trigger}.console" for vm, triggers in EXPECTED.items() for trigger in triggers}


@pytest.mark.parametrize("path", LOGS, ids=named)
def test_read_right(path: Path) -> None:
    assert found(path.read_bytes()) == expected(path)


@pytest.mark.parametrize("path", LOGS, ids=named)
def test_in_any_form_and_with_a_programs_output_in_between(path: Path) -> None:
    log = path.read_text()
    wanted = [(complaint.kind, complaint.headline, complaint.source_place) for complaint in read_complaints(log)]
    noise = "cat: BUG: Kernel panic - not syncing: written by a program\n"
    forms = {
        "CRLF": log.replace("\n", "\r\n"),
        "CR CR LF": log.replace("\n", "\r\r\n"),
        "colors": TIME.sub("\x1b[32m\\1\x1b[0;1;31m ", log).replace("\n", "\x1b[0m\n"),
        "callers": TIME.sub(r"\1[   T17] ", log),
        "a program's lines": "".join(f"{line}{noise}" for line in log.splitlines(keepends=True)),
        "a program's unfinished lines": TIME.sub(r"Kernel panic - not syncing: \1 ", log),
    }
    for form, changed in forms.items():
        again = [(complaint.kind, complaint.headline, complaint.source_place) for complaint in read_complaints(changed)]
        assert again == wanted, form


@pytest.mark.slow
@pytest.mark.parametrize("path", LOGS, ids=named)
def test_cut_anywhere(path: Path) -> None:
    whole, wanted = path.read_bytes(), read_complaints(path.read_bytes())
    every = range(len(whole))
    for cut in every if named(path) in EVERY_BYTE else random.Random(path.name).sample(every, min(20, len(whole))):
        before, after = whole[:cut], whole[cut:]
        assert_is_beginning(read_complaints(before), wanted, before.decode())
        assert {complaint.kind for complaint in read_complaints(after)} <= {
            complaint.kind for complaint in wanted
        } | PREAMBLES


def assert_is_beginning(reported: list[Complaint], wanted: list[Complaint], text: str) -> None:
    """Assert that no complaint is invented, all but the last are reported, and a complete headline has its own kind."""
    assert len(reported) <= len(wanted)
    assert [(each.kind, each.headline) for each in reported[:-1]] == [
        (each.kind, each.headline) for each in wanted[: len(reported)][:-1]
    ]
    if reported:
        assert reported[-1].kind in PREAMBLES | {wanted[len(reported) - 1].kind}
    whole_lines = text[: text.rfind("\n") + 1]
    arrived = [each for each in wanted if f" {each.headline}\n" in whole_lines]
    assert [each.kind for each in reported][: len(arrived)] == [each.kind for each in arrived]
