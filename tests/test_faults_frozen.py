"""Whole runs report faults during freeze and thaw, and damaged frozen guests in the store.

QEMU and its migrations are real; the kernel is one instruction long.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from broken_runs import BrokenRun, environment
from validators import demand_schemas

from harness.judge_injected_fault_fixture import Judge
from harness.report.run_dir import RunDirectory

pytestmark = pytest.mark.slow

pytest_plugins = ["pytester"]

CONFTEST = """
import os
import threading
import time
from pathlib import Path

import pytest

import harness.guest.start as start
import harness.guest.save_and_load_state as state
import harness.landing.prove_recipe_traits as traits
import harness.matrix.guests.check_after_cell as checkup
import harness.matrix.guests.fleet as fleet
from fault_guests import HANG, Programs
from harness.core.deadline import Deadline
from harness.guest.qemu_process import QemuProcess
from harness.guest.guest import Guest

pytest_plugins = ["harness.plugin"]
HERE = Path(__file__).parent
FAULTS = {faults}

# A kernel of one instruction prints nothing and reads nothing; everything else is real.
fleet.prepare = lambda recipe, build_context: Programs(HERE).image(recipe.name, HANG)
start._await_line_of_init = start._become_ready = traits.prove_traits = lambda *_, **__: None
Guest.copy_all_files = Guest.return_to_provisioning = lambda *_: None
checkup.record_state_before_first_cell = checkup.check_after_cell = lambda guest: ""


def strikes(vm, fault):
    # Each once, whatever is tried again.
    if FAULTS.get(vm) != fault:
        return False
    try:
        (HERE / f"struck-{{vm}}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def kill_at(guest, path):
    # With so little a second it has begun for long and never ends.
    while not (path.exists() and path.stat().st_size):
        time.sleep(0.005)
    os.kill(guest.pid, 9)


def freeze(guest, path, seconds):
    if strikes(guest.name, "killed while it freezes"):
        state._BYTES_PER_SECOND = 1 << 12
        threading.Thread(target=kill_at, args=(guest, path)).start()
        try:
            return freeze_for_real(guest, path, seconds)
        finally:
            state._BYTES_PER_SECOND = 1 << 40
    if strikes(guest.name, "no room while it freezes"):
        path.symlink_to("/dev/full")
        state.os = Unasked()
        try:
            return freeze_for_real(guest, path, seconds)
        finally:
            state.os = os
    freeze_for_real(guest, path, seconds)
    if strikes(guest.name, "a frozen guest that QEMU does not take"):
        os.truncate(path, path.stat().st_size // 2)


class Unasked:
    # O_EXCL would refuse a symbolic link.
    def open(self, path, flags, mode=0):
        return os.open(path, flags & ~os.O_EXCL & ~os.O_CREAT, mode)

    def __getattr__(self, name):
        return getattr(os, name)


def take(self, monitor, frozen, deadline):
    if not strikes(self.name, "killed while it thaws"):
        return take_for_real(self, monitor, frozen, deadline)
    pipe = HERE / "pipe"
    os.mkfifo(pipe)

    def feed():
        content = frozen.read_bytes()
        with pipe.open("wb", buffering=0) as file:
            file.write(content[: len(content) // 2])
            os.kill(self.pid, 9)

    threading.Thread(target=feed).start()
    return take_for_real(self, monitor, pipe, deadline)


freeze_for_real, start.freeze_running_guest = start.freeze_running_guest, freeze
take_for_real, QemuProcess._take = QemuProcess._take, take


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report):
    if report.when == "teardown":
        with (HERE / "witness").open("a") as witness:
            witness.write("{{case}} {{vm}}\\n".format(**report.pinpoint_cell))
"""
FAULTS = {
    "x86_64-debian": ("killed while it freezes", "QEMU was killed by signal 9"),
    "parisc": ("killed while it thaws", "QEMU was killed by signal 9"),
    "arm64-debian": ("a frozen guest that QEMU does not take", "QEMU does not take the frozen guest: "),
    "x86_64-fsections": ("no room while it freezes", "the disk is full; make room"),
}


class Run(BrokenRun):
    """A run of two cells for each VM, and the earlier runs in the same directory with the same cache."""

    def go(self, pytester: pytest.Pytester) -> tuple[int, str]:
        """Run it; return its exit status and its output."""
        ended = pytester.runpytest_subprocess("-p", "no:cacheprovider", *(f"--vm={vm}" for vm in FAULTS))
        return int(ended.ret), ended.stdout.str()

    def latest(self, case: str) -> Mapping[str, tuple[str, str]]:
        """Return the verdict and reason of a case on each VM in the latest run."""
        lines = (self.directory / "results" / "latest" / "results.jsonl").read_text().splitlines()
        cells = [json.loads(line) for line in lines]
        return {cell["vm"]: (cell["verdict"], cell["reason"]) for cell in cells if cell["case"] == case}

    @property
    def store(self) -> list[Path]:
        """Return what is in the store, without its locks."""
        return [path for path in (self.directory / "cache" / "store").iterdir() if path.name != ".locks"]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    for name, value in environment(pytester.path).items():
        monkeypatch.setenv(name, value)
    pytester.makepyfile(test_case="def test_first(guest): pass\ndef test_second(guest): assert guest.pid")
    return Run(pytester.path)


def test_what_befalls_a_guest_between_two_runs(pytester: pytest.Pytester, run: Run, judge_fault: Judge) -> None:
    """Each fault fails one cell; the next cell has a guest, and the next run has all guests."""
    faults = {vm: fault for vm, (fault, _) in FAULTS.items()}
    pytester.makeconftest(CONFTEST.format(faults=repr(faults)))
    status, output = run.go(pytester)
    first = run.latest("test_first")
    lost, orphaned = run.lost(), run.orphaned()
    for vm, (fault, _) in FAULTS.items():
        reported = (first[vm][0], status)
        judge_fault(f"QEMU: {fault}", expected=("harness-error", 3), reported=reported, lost=lost, orphaned=orphaned)
        lost = orphaned = 0
    assert {vm: first[vm][1] for vm, (_, why) in FAULTS.items() if why not in first[vm][1]} == {}, output
    # No partial frozen guest is left, and there is one for each row that continued.
    assert {vm: verdict for vm, (verdict, _) in run.latest("test_second").items()} == {
        vm: "harness-error" if "no room" in fault else "pass" for vm, fault in faults.items()
    }
    assert sorted(path.name.partition("-")[0] for path in run.store) == ["frozen"] * (len(FAULTS) - 1)
    demand_schemas(RunDirectory((run.directory / "results" / "latest").resolve()))
    assert run.go(pytester)[0] == 0
    assert {verdict for case in ("test_first", "test_second") for verdict, _ in run.latest(case).values()} == {"pass"}


def test_what_befalls_a_frozen_guest_in_the_store(pytester: pytest.Pytester, run: Run, judge_fault: Judge) -> None:
    """A damaged frozen guest is found and reported, and another is frozen."""
    pytester.makeconftest(CONFTEST.format(faults="{}"))
    assert run.go(pytester)[0] == 0
    corrupted, half = run.store[:2]
    content = bytearray((corrupted / "state").read_bytes())
    content[len(content) // 2] ^= 1
    (corrupted / "state").write_bytes(content)
    (half / "state").unlink()
    status, output = run.go(pytester)
    reported = {
        "a frozen guest corrupted in the store": "(it was damaged in the store: state has changed)",
        "a frozen guest half deleted": "(it was damaged in the store: state is missing)",
    }
    for fault, line in reported.items():
        judge_fault(fault, expected=("", 0), reported=("", status), lost=run.lost(), orphaned=run.orphaned())
        assert line in output
    assert len(run.store) == len(FAULTS)
