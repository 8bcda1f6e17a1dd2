"""Whole runs report faults before a guest is up, with real QEMU or none and kernels of a few instructions."""

from __future__ import annotations

import json
import shutil

import pytest
from broken_runs import environment

from harness.judge_injected_fault_fixture import Judge

pytestmark = pytest.mark.slow

pytest_plugins = ["pytester"]

CONFTEST = """
from dataclasses import replace
from pathlib import Path

import harness.matrix.guests.fleet as fleet
from fault_guests import HANG, OFF, PANIC, RESET, Programs

pytest_plugins = ["harness.plugin"]
VMS = {vms}
HERE = Path(__file__).parent

fleet.prepare = lambda recipe, build_context: Programs(HERE).image(recipe.name, *VMS[recipe.name])


def beginning(self, image, log_name, keys):
    log = self._directory / "console" / f"{{log_name}}.log"
    if {full!r} == image.recipe.name and not log.is_symlink():
        log.symlink_to("/dev/full")
    return replace(real(self, image, log_name, keys), seconds={seconds}[image.recipe.name])


real, fleet.Fleet._options = fleet.Fleet._options, beginning
"""

# Seconds for QEMU to start on a host that compiles, and for faults that are reported sooner than that.
MUTE_SECONDS, SOON = 12.0, 120.0
# A QEMU that fails in another way for each of some VMs, and is the real QEMU for all others.
FAKE = """#!/bin/sh
case "$*" in
*--version*) echo "QEMU emulator version 7.2.22 (a test)" ;;
*pinpoint-x86_64-debian*) echo "qemu: not today" >&2; exit 1 ;;
*pinpoint-parisc*) exec {sleep} 60 ;;
*pinpoint-arm64-debian*) ({sleep} 1; kill -9 $$) & exec {qemu} "$@" ;;
*) exec {qemu} "$@" ;;
esac
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    for name, value in environment(pytester.path).items():
        monkeypatch.setenv(name, value)
    pytester.makepyfile(test_case="def test_it(guest): pass")
    return pytester


def outcome(run: pytest.Pytester, vms: dict[str, str], *, mute: str, full: str = "") -> tuple[dict[str, str], int]:
    """Return each VM's verdict and the exit status of a run with these programs and architectures.

    The VM `mute` prints nothing in the time for a boot; the disk is full for the console of the VM `full`.
    """
    seconds = {vm: MUTE_SECONDS if vm == mute else SOON for vm in vms}
    listed = ", ".join(f"{vm!r}: ({program})" for vm, program in vms.items())
    run.makeconftest(CONFTEST.format(vms=f"{{{listed}}}", seconds=seconds, full=full))
    ended = run.runpytest_subprocess("-p", "no:cacheprovider", *(f"--vm={vm}" for vm in vms))
    lines = (run.path / "results" / "latest" / "results.jsonl").read_text().splitlines()
    cells = [json.loads(line) for line in lines]
    run.reasons = {cell["vm"]: cell["reason"] for cell in cells}  # type: ignore[attr-defined]
    return {cell["vm"]: cell["verdict"] for cell in cells}, int(ended.ret)


def test_guests_that_do_not_come_up(run: pytest.Pytester, judge_fault: Judge) -> None:
    faults = {
        "parisc": ("panic at boot", "PANIC,"),
        "x86_64-debian": ("reset at boot", "RESET,"),
        "x86_64-ibt": ("power off at boot", "OFF,"),
        "arm64-debian": ("hang at boot", "HANG,"),
        "x86_64-fsections": ("disk full of the console, panic at boot", "PANIC,"),
    }
    vms = {vm: program for vm, (_, program) in faults.items()}
    verdicts, status = outcome(run, vms, mute="arm64-debian", full="x86_64-fsections")
    for vm, (fault, _) in faults.items():
        judge_fault(fault, expected=("boot-fail", 1), reported=(verdicts[vm], status))


def test_emulators_that_do_not_start(run: pytest.Pytester, judge_fault: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = run.mkdir("fakes")
    scripts = {
        "qemu-system-aarch64": FAKE.format(sleep=shutil.which("sleep"), qemu=shutil.which("qemu-system-aarch64")),
        "qemu-system-x86_64": "#!/bin/sh\necho QEMU emulator version 5.2.0\n",
    }
    for name, text in scripts.items():
        (fakes / name).write_text(text)
        (fakes / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(fakes))
    faults = {
        "x86_64-debian": ("QEMU exits at once", "HANG,", "QEMU does not start: qemu: not today"),
        "parisc": ("QEMU prints nothing", "HANG,", "QEMU does not answer: it printed nothing"),
        "arm64-debian": ("QEMU killed at boot", "HANG,", "QEMU was killed by signal 9"),
        "x86_64-fsections": ("QEMU absent", "HANG, 'parisc'", "install the package qemu-system-misc"),
        "x86_64-ibt": ("QEMU too old", "HANG, 'x86_64'", "qemu-system-x86_64 is version 5.2; install 7.2 or newer"),
    }
    verdicts, status = outcome(run, {vm: program for vm, (_, program, _) in faults.items()}, mute="parisc")
    for vm, (fault, _, _) in faults.items():
        judge_fault(fault, expected=("harness-error", 3), reported=(verdicts[vm], status))
    reasons = run.reasons  # type: ignore[attr-defined]
    assert {vm: output for vm, (_, _, output) in faults.items() if output not in reasons[vm]} == {}, reasons
