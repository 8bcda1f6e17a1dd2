"""What breaks before a guest is up, told by whole runs: real QEMU or none, kernels of a few instructions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.core import paths
from harness.faulting import Judge

pytest_plugins = ["pytester"]

CONFTEST = """
from pathlib import Path

import fault_guests
import harness.matrix.fleet as fleet

pytest_plugins = ["harness.plugin"]
PROGRAMS = {programs}

fleet._BOOT_SECONDS = 3.0
fleet.prepare = lambda recipe, workshop: fault_guests.Programs(Path.cwd()).image(recipe.name, PROGRAMS[recipe.name])
"""

FAKE = """#!/bin/sh
case "$*" in
*--version*) echo "QEMU emulator version 7.2.22 (a test)" ;;
*pinpoint-x86_64-debian*) echo "qemu: not today" >&2; exit 1 ;;
*pinpoint-parisc*) sleep 60 ;;
*) exec /usr/bin/qemu-system-aarch64 "$@" ;;
esac
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PINPOINT_RESULTS", str(pytester.path / "results"))
    monkeypatch.setenv("PINPOINT_CACHE", str(pytester.path / "cache"))
    monkeypatch.setenv("PYTHONPATH", f"{paths.PROJECT}:{Path(__file__).parent}")
    pytester.makepyfile(test_case="def test_it(guest): pass")
    return pytester


def outcome(run: pytest.Pytester, programs: dict[str, str]) -> tuple[dict[str, str], int, str]:
    """Each VM's verdict, the exit status, and what was printed, of a run with these programs as kernels."""
    listed = ", ".join(f"{vm!r}: {program}" for vm, program in programs.items())
    run.makeconftest(CONFTEST.format(programs=f"{{{listed}}}"))
    ended = run.runpytest_subprocess("-p", "no:cacheprovider", *(f"--vm={vm}" for vm in programs))
    lines = (run.path / "results" / "latest" / "results.jsonl").read_text().splitlines()
    cells = [json.loads(line) for line in lines]
    return {cell["vm"]: cell["verdict"] for cell in cells}, int(ended.ret), ended.stdout.str()


def test_guests_that_do_not_come_up(run: pytest.Pytester, judge_fault: Judge) -> None:
    faults = {"parisc": "PANIC", "x86_64-debian": "RESET", "arm64-debian": "HANG"}
    programs = {vm: f"fault_guests.{program}" for vm, program in faults.items()}
    verdicts, status, _ = outcome(run, programs)
    for vm, program in faults.items():
        judge_fault(f"{program.lower()} at boot", expected=("boot-fail", 1), told=(verdicts[vm], status))


def test_emulators_that_do_not_start(run: pytest.Pytester, judge_fault: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = run.mkdir("fakes")
    fake = fakes / "qemu-system-aarch64"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fakes))
    faults = {"x86_64-debian": "exits at once", "parisc": "says nothing"}
    verdicts, status, said = outcome(run, dict.fromkeys(faults, "fault_guests.HANG"))
    for vm, fault in faults.items():
        judge_fault(f"QEMU {fault}", expected=("harness-error", 3), told=(verdicts[vm], status))
    assert "x86_64-debian: QEMU does not start: qemu: not today" in said
