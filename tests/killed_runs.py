"""Runs the plugin and kills it by SIGKILL at its n-th side effect; all runs are forked from one process.

`python killed_runs.py DIRECTORY COUNT` makes one run that is not killed, COUNT that are killed at even distances, and
one more that is not killed, all in that directory. It prints a JSON object for each run: `point` (0: not killed),
`status` as waitpid() returns it, and `orphaned`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import testinfra.host
import xdist
from broken_runs import BrokenRun

import harness.faulting
import harness.fixtures

WARM = (testinfra.host, xdist, harness.faulting, harness.fixtures)
# The events of a run that have side effects; all others leave no trace.
WATCHED = ("open", "os.", "subprocess.", "socket.", "shutil.", "tempfile.")
LOOKS = ("os.listdir", "os.scandir")
VMS = ("arm64-debian", "parisc")
CASES = 6

CONFTEST = """
from pathlib import Path

import harness.matrix.guests.checkup as checkup
import harness.matrix.guests.fleet as fleet
import pytest
from fault_guests import HANG, Programs
from harness.core.deadline import Deadline
from harness.guest.accelerator import Accelerator
from harness.guest.qemu_process import Emulator
from harness.guest.guest import Guest

pytest_plugins = ["harness.plugin"]
HERE = Path(__file__).parent


def boot(self, name):
    image, tcg = Programs(HERE).image(name, HANG), Accelerator("tcg", "a test")
    log = self._directory / "console" / f"{name}.log"
    emulator = Emulator(image, console_log=log, accelerator=tcg, deadline=Deadline.after(60))
    return Guest(image, emulator, tcg)


fleet.Fleet._prepare_and_start = boot
checkup.check_after_cell = lambda guest: ""


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report):
    # After the harness has had it.
    if report.when == "teardown":
        with (HERE / "witness").open("a") as witness:
            witness.write("{case} {vm}\\n".format(**report.pinpoint_cell))
"""
CASE = f"""
import pytest

@pytest.mark.parametrize("number", range({CASES}))
def test_it(guest, number):
    assert guest.pid
"""


def run(directory: Path, point: int) -> None:
    """Run the plugin in a forked process, and die at side effect number `point`; write their number to `done`."""
    own, done = os.getpid(), 0

    def count(event: str, given: tuple[Any, ...]) -> None:
        nonlocal done
        reads = event == "open" and not given[2] & (os.O_WRONLY | os.O_RDWR)
        # Forked processes inherit this hook until they execute another program.
        if event.startswith(WATCHED) and event not in LOOKS and not reads and os.getpid() == own:
            done += 1
            if done == point:
                os.kill(own, signal.SIGKILL)

    os.chdir(directory)
    output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.addaudithook(count)
    options = ["-p", "no:cacheprovider", "-q", "--rootdir", str(directory), *(f"--vm={vm}" for vm in VMS)]
    status = pytest.main([*options, str(directory)])
    things = done
    (directory / "done").write_text(str(things))
    sys.stdout.flush()
    os._exit(int(status))


def main(directory: Path, count: int) -> None:
    """Make the run that counts, the runs that are killed, and the one after them."""
    (directory / "conftest.py").write_text(CONFTEST)
    (directory / "test_case.py").write_text(CASE)
    (directory / "pytest.ini").touch()
    every = 0
    for number in range(count + 2):
        point = number * every if number <= count else 0
        child = os.fork()
        if not child:
            run(directory, point)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        every = every or int((directory / "done").read_text()) // (count + 1)
        left = BrokenRun(directory).orphaned(but=os.getpid())
        print(json.dumps({"point": point, "status": status, "orphaned": left}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]))
