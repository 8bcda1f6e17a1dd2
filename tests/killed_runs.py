"""Runs the plugin, and kills it or one of its children at a side effect; all runs are forked from one process.

`python killed_runs.py DIRECTORY VICTIM COUNT POINTS` makes two runs that are not killed: the first fills the caches, in
the second the side effects are counted. Then, for POINTS of COUNT points at even distances, it makes a run in which
VICTIM is killed by SIGKILL at that point and one that is not killed and starts with what is left. VICTIM is
`controller` (of one process), `controller-of-several`, `worker` (the process of a shard with an open cell), `QEMU` or
`builder`. The points are spread over the side effects of the
second run between the first and the last at which there was a victim. A run in which it had ended by then is repeated
with an earlier point. Each run builds with make and ccache, freezes and thaws with real QEMUs, and has an empty store.
A JSON object is printed for each run from the second on: `point` (0: nothing is killed), `status` as waitpid() returns
it, `struck`, `passed` (the cells with that verdict), and `orphaned`.
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
from broken_runs import BrokenRun

import harness.fixtures
import harness.judge_injected_fault_fixture

WARM = (testinfra.host, harness.judge_injected_fault_fixture, harness.fixtures)
# The events of a run that have side effects; all others leave no trace.
WATCHED = ("open", "os.", "subprocess.", "socket.", "shutil.", "tempfile.")
LOOKS = ("os.listdir", "os.scandir")
VMS = ("arm64-debian", "parisc")
CASES = 3
CONTROLLERS = ("controller", "controller-of-several")
# What is in the command line of each victim.
VICTIMS = {"worker": b"-m\0harness\0shard", "QEMU": b"-name\0pinpoint-", "builder": b"INTO="}

CONFTEST = """
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import harness.guest.start as start
import harness.landing.prove_recipe_traits as traits
import harness.matrix.guests.check_after_cell as checkup
import harness.matrix.guests.fleet as fleet
import harness.matrix.vm_order_and_row_division as order
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
# The order of rows would depend on lists of packages, which the mirror sends.
order.is_built = lambda *_: False
start._await_line_of_init = start._become_ready = traits.prove_traits = lambda *_, **__: None
Guest.copy_all_files = Guest.return_to_provisioning = lambda *_: None
checkup.record_state_before_first_cell = lambda guest: ""


def check_after_cell(guest):
    # All that can be checked without a kernel: is its QEMU there?
    guest.monitor.execute("query-status")
    return ""


checkup.check_after_cell = check_after_cell


class Witness:
    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report):
        # After the harness has had it.
        if report.when == "teardown":
            with (HERE / "witness").open("a") as witness:
                witness.write("{case} {vm}\\n".format(**report.pinpoint_cell))


# The victim `worker` is a process that has an open cell. After the last report of a cell its guest may still be ended.
OPEN = HERE / f"open-cell-{os.getpid()}"


@pytest.hookimpl(trylast=True)
def pytest_runtest_logstart():
    OPEN.touch()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report):
    if report.when == "teardown":
        OPEN.unlink(missing_ok=True)


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Witness())
"""
# Each cell needs its guest from the beginning to the end.
CASE = f"""
import pytest
import time

@pytest.mark.parametrize("number", range({CASES}))
def test_it(guest, number):
    for _ in range(5):
        assert guest.monitor.execute("query-status")
        time.sleep(0.05)
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
    if victim in CONTROLLERS:
        os.kill(own, number)
        return True
    for process in descendants(own):
        # A worker without an open cell is not missed: its cells run in another.
        if victim == "worker" and not Path(f"open-cell-{process}").exists():
            continue
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
    first = last = 0

    def strike_soon() -> None:
        # A controller that waits for its workers has no side effects, so the victim is looked for all the time.
        nonlocal struck
        while not struck:
            struck = strike(own, victim)
            time.sleep(0.01)

    def watch() -> None:
        # The side effects at which there is a victim. Signal 0 only looks for one.
        nonlocal first, last
        while True:
            if strike(own, victim, 0):
                first, last = first or done, done
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
            if victim in CONTROLLERS:
                strike(own, victim)
            threading.Thread(target=strike_soon, daemon=True).start()

    os.chdir(directory)
    for left in directory.glob("open-cell-*"):
        left.unlink()
    output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.addaudithook(count)
    if not point:
        threading.Thread(target=watch, daemon=True).start()
    options = ["-p", "no:cacheprovider", "-q", "--rootdir", str(directory), *(f"--vm={vm}" for vm in VMS)]
    options += ["-n", "2"] if victim in ("worker", "controller-of-several") else []
    status = pytest.main([*options, str(directory)])
    (directory / "done").write_text(json.dumps([first, last, struck]))
    sys.stdout.flush()
    os._exit(int(status))


def main(directory: Path, victim: str, count: int, points: list[int]) -> None:
    """Make the run that counts, and for each point a run in which the victim is killed and the one after it."""
    (directory / "conftest.py").write_text(CONFTEST)
    (directory / "test_case.py").write_text(CASE)
    (directory / "pytest.ini").touch()
    first = whole = 0
    # -1: the run that fills the caches.
    for point in [-1, 0, *(each for number in points for each in (number, 0))]:
        place = first + max(1, point * (whole - first) // (count + 1)) if point > 0 else 0
        while True:
            if point or not whole:
                shutil.rmtree(directory / "cache" / "store", ignore_errors=True)
            (directory / "done").unlink(missing_ok=True)
            child = os.fork()
            if not child:
                run(directory, victim, place)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            ended = (directory / "done").exists()
            begun, last, struck = json.loads((directory / "done").read_text()) if ended else (0, 0, True)
            if not point and not whole:
                first, whole = begun, last
            if struck or place <= first + 1:
                break
            place = first + max(1, (place - first) * 3 // 4)
        if point < 0:
            continue
        left, passed = BrokenRun(directory).orphaned(), passed_cells(directory)
        found = {"point": point, "status": status, "struck": struck, "passed": passed, "orphaned": left}
        print(json.dumps(found), flush=True)


def passed_cells(directory: Path) -> int:
    """Return how many cells passed in the last run that has results."""
    results = sorted(directory.glob("results/2*/results.jsonl"))
    cells = [json.loads(line) for line in results[-1].read_text().splitlines()] if results else []
    return sum(cell["verdict"] == "pass" for cell in cells)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2], int(sys.argv[3]), [int(word) for word in sys.argv[4].split(",")])
