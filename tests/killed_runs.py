"""Runs the plugin, and kills it or one of its children at a side effect; all runs are forked from one process.

`python killed_runs.py DIRECTORY VICTIM COUNT POINTS` makes one run that is not killed; then, for POINTS of COUNT points
at even distances, a run in which VICTIM is killed by SIGKILL at that point and one that is not killed and starts with
what is left. VICTIM is `controller`, `worker`, `QEMU` or `builder`. The points are those side effects of the first run
at which there still was a victim. A run in which it had ended by then is repeated with an earlier point. Each run
builds with make and ccache, freezes and thaws with real QEMUs, and has an empty store. A JSON object is printed for
each run: `point` (0: nothing is killed), `status` as waitpid() returns it, `struck`, and `orphaned`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import testinfra.host
import xdist
from broken_runs import BrokenRun

import harness.fixtures
import harness.judge_injected_fault_fixture

WARM = (testinfra.host, xdist, harness.judge_injected_fault_fixture, harness.fixtures)
# The events of a run that have side effects; all others leave no trace.
WATCHED = ("open", "os.", "subprocess.", "socket.", "shutil.", "tempfile.")
LOOKS = ("os.listdir", "os.scandir")
VMS = ("arm64-debian", "parisc")
CASES = 3
# What is in the command line of each victim.
VICTIMS = {"worker": b"exec(eval(sys.stdin.readline()))", "QEMU": b"qemu-system", "builder": b"INTO="}

CONFTEST = """
import tempfile
from dataclasses import replace
from pathlib import Path

import harness.guest.start as start
import harness.landing.prove_recipe_traits as traits
import harness.matrix.guests.check_after_cell as checkup
import harness.matrix.guests.fleet as fleet
import pytest
from fault_guests import HANG, Programs
from harness.core import paths
from harness.core.deadline import Deadline
from harness.guest.guest import Guest
from harness.images import kbuild

pytest_plugins = ["harness.plugin"]
HERE = Path(__file__).parent
RULES = '''
# It lasts long enough to be found and killed on a busy host.
all: one.o two.o three.o
\tsleep 2
\tcp program $(INTO)/kernel
%.o: %.c
\tccache gcc -O2 -c -o $@ $<
'''


def build(directory, step):
    with tempfile.TemporaryDirectory(dir=directory) as work:
        for name in ("one", "two", "three"):
            Path(work, name + ".c").write_text(f"int {name};")
        Path(work, "program").write_bytes(HANG)
        Path(work, "Makefile").write_text(RULES)
        log = paths.cache() / "logs" / (step.vm if hasattr(step, "vm") else "make")
        words = ["make", "-j2", "-C", work, f"INTO={directory}"]
        kbuild.run_logged(words, "make", log, deadline=Deadline.after(120))
    return {}


def prepare(recipe, build_context):
    entry = build_context.store.obtain("kernel", [recipe.name], vm=recipe.name, build=build)
    image = Programs(HERE).image(recipe.name, HANG)
    return replace(image, key=entry.key, kernel=entry.path / "kernel")


# A kernel of one instruction prints nothing and reads nothing; everything else is real.
fleet.prepare = prepare
start._hear = start._become_ready = traits.prove_traits = lambda *_: None
Guest.copy_all_files = Guest.return_to_provisioning = lambda *_: None
checkup.record_state_before_first_cell = checkup.check_after_cell = lambda guest: ""


class Witness:
    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report):
        # After the harness has had it.
        if report.when == "teardown":
            with (HERE / "witness").open("a") as witness:
                witness.write("{case} {vm}\\n".format(**report.pinpoint_cell))


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Witness())
"""
CASE = f"""
import pytest

@pytest.mark.parametrize("number", range({CASES}))
def test_it(guest, number):
    assert guest.pid
"""


def descendants(process: int) -> list[int]:
    """Return the processes below a process, the newest first."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [process]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return sorted(found[1:], reverse=True)


def strike(own: int, victim: str, number: int = signal.SIGKILL) -> bool:
    """Kill the victim, or send it another signal; return False if there is none now."""
    if victim == "controller":
        os.kill(own, number)
        return True
    for process in descendants(own):
        try:
            if VICTIMS[victim] in Path(f"/proc/{process}/cmdline").read_bytes():
                os.kill(process, number)
                return True
        except OSError:
            continue
    return False


def run(directory: Path, victim: str, point: int) -> None:
    """Run the plugin in a forked process, strike at side effect number `point` or soon after; write how to `done`."""
    own, done, struck, begun = os.getpid(), 0, False, False
    last = 0

    def strike_soon() -> None:
        # A controller that waits for its workers has no side effects, so the victim is looked for all the time.
        nonlocal struck
        while not struck:
            struck = strike(own, victim)
            time.sleep(0.01)

    def watch() -> None:
        # The last side effect at which there is a victim. Signal 0 only looks for one.
        nonlocal last
        while True:
            if strike(own, victim, 0):
                last = done
            time.sleep(0.02)

    def count(event: str, given: tuple[Any, ...]) -> None:
        nonlocal done, begun
        reads = event == "open" and not given[2] & (os.O_WRONLY | os.O_RDWR)
        # Forked processes inherit this hook until they execute another program.
        if begun or not event.startswith(WATCHED) or event in LOOKS or reads or os.getpid() != own:
            return
        done += 1
        if point and done >= point:
            begun = True
            if victim == "controller":
                strike(own, victim)
            threading.Thread(target=strike_soon, daemon=True).start()

    os.chdir(directory)
    output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.addaudithook(count)
    if not point:
        threading.Thread(target=watch, daemon=True).start()
    options = ["-p", "no:cacheprovider", "-q", "--rootdir", str(directory), *(f"--vm={vm}" for vm in VMS)]
    options += ["-n", "2"] if victim == "worker" else []
    status = pytest.main([*options, str(directory)])
    (directory / "done").write_text(json.dumps([last, struck]))
    sys.stdout.flush()
    os._exit(int(status))


def main(directory: Path, victim: str, count: int, points: list[int]) -> None:
    """Make the run that counts, and for each point a run in which the victim is killed and the one after it."""
    (directory / "conftest.py").write_text(CONFTEST)
    (directory / "test_case.py").write_text(CASE)
    (directory / "pytest.ini").touch()
    whole = 0
    for point in [0, *(each for number in points for each in (number, 0))]:
        place = max(1, point * whole // (count + 1)) if point else 0
        while True:
            if point:
                shutil.rmtree(directory / "cache" / "store", ignore_errors=True)
            (directory / "done").unlink(missing_ok=True)
            child = os.fork()
            if not child:
                run(directory, victim, place)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            ended = (directory / "done").exists()
            last, struck = json.loads((directory / "done").read_text()) if ended else (0, True)
            whole = whole or last
            if struck or place < 2:
                break
            place = place * 3 // 4
        left = BrokenRun(directory).orphaned()
        print(json.dumps({"point": point, "status": status, "struck": struck, "orphaned": left}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2], int(sys.argv[3]), [int(word) for word in sys.argv[4].split(",")])
