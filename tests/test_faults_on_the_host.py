"""A run reports faults of the host: full disks, a jumping clock, another run, no port. Only the last starts QEMU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from broken_runs import environment

from harness.judge_injected_fault_fixture import Judge

pytestmark = pytest.mark.slow

CONFTEST = """
import os
import pytest
import harness.matrix.guests.check_after_cell as checkup
import harness.matrix.guests.fleet as fleet
from pathlib import Path

pytest_plugins = ["harness.plugin"]
HERE = Path(__file__).parent


class Guest:
    image = type("Image", (), {{"release": "6.1", "key": "k", "recipe": type("Recipe", (), {{"arch": "parisc"}})}})
    accelerator = type("Accelerator", (), {{"name": "tcg"}})
    qemu_version_text = "QEMU emulator version 7.2.22"

    def stop(self):
        pass


boot_for_real = fleet.Fleet._prepare_and_start
fleet.Fleet._prepare_and_start = lambda self, name: Guest()
checkup.check_after_cell = lambda guest: ""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    # Known before the harness can lose it.
    report = yield
    if report.when == "teardown":
        with (HERE / "witness").open("a") as witness:
            witness.write("{{case}} {{vm}}\\n".format(**report.pinpoint_cell))
    return report

{harm}
"""
FIRST_AND_LAST = """
import pytest

def test_first(guest): pass
{harm}
def test_last(guest): pass
"""
# A file system of 1 MiB for the results; they are copied before it disappears with its namespace.
SMALL_DISK = """
mount -t tmpfs -o size=1m none results || exit 77
"$@"
status=$?
cp -a results kept
exit $status
"""
NO_NAMESPACES = 77


def run(
    directory: Path, harm: str = "", case: str = "", within: Sequence[str] = (), *arguments: str
) -> subprocess.Popen[str]:
    """Start a run of the plugin with `harm` in its conftest.py and `case` in its case file, as a child of `within`."""
    (directory / "conftest.py").write_text(CONFTEST.format(harm=harm))
    (directory / "test_case.py").write_text(FIRST_AND_LAST.format(harm=case))
    (directory / "pytest.ini").touch()
    (directory / "results").mkdir(exist_ok=True)
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--vm=parisc", *arguments, str(directory)]
    return subprocess.Popen(
        [*within, *words], cwd=directory, env=environment(directory), stdout=subprocess.PIPE, text=True
    )


def ended(broken: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = broken.communicate(timeout=300)
    return broken.returncode, output


def cells(results: Path) -> list[str]:
    lines = (results / "latest" / "results.jsonl").read_text().splitlines()
    return [json.loads(line)["case"] for line in lines]


def lost(directory: Path, results: Path) -> int:
    """Return how many cells had ended and are not in the results."""
    names = [line.split()[0] for line in (directory / "witness").read_text().splitlines()]
    return len(set(names) - set(cells(results)))


def test_no_room_for_results(tmp_path: Path, judge_fault: Judge) -> None:
    fill = f"""
def test_fills(guest):
    import pathlib
    with pathlib.Path({str(tmp_path)!r}, "results", "fill").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass


# The last page of the results has room for some.
@pytest.mark.parametrize("number", range(16))
def test_after(guest, number): pass
"""
    small = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", SMALL_DISK, "sh")
    status, output = ended(run(tmp_path, "", fill, small))
    if status == NO_NAMESPACES or "unshare" in output:
        pytest.skip("this host does not allow user namespaces")
    kept = tmp_path / "kept"
    judge_fault("disk full of results", expected=("", 3), reported=("", status), lost=lost(tmp_path, kept), orphaned=0)
    assert cells(kept)[:3] == ["test_first", "test_fills", "test_after[0]"]
    assert "results.jsonl: cannot be written" in output or "results.jsonl: was cut short" in output
    assert "did not run  test_last" in output
    assert "Traceback" not in output
    assert "INTERNALERROR" not in output


def test_no_room_for_a_build(tmp_path: Path, judge_fault: Judge) -> None:
    harm = """
def fill(directory, step):
    with open("/dev/full", "wb", buffering=0) as full:
        full.write(b"x")
    return {}


def boot(self, name):
    self.build_context.store.obtain("kernel", ["a"], vm=name, build=fill)
    return Guest()


fleet.Fleet._prepare_and_start = boot
"""
    status, output = ended(run(tmp_path, harm))
    results = tmp_path / "results"
    verdicts = {json.loads(line)["verdict"] for line in (results / "latest" / "results.jsonl").read_text().splitlines()}
    (verdict,) = verdicts
    judge_fault(
        "disk full while building",
        expected=("harness-error", 3),
        reported=(verdict, status),
        lost=lost(tmp_path, results),
    )
    assert "the disk is full; make room" in output


def test_clock_jumps(tmp_path: Path, judge_fault: Judge) -> None:
    harm = """
import itertools
import time

real, jumps = time.time, itertools.cycle([0, 86400 * 400, -86400 * 400])
time.time = lambda: real() + next(jumps)
# As the launcher prints it.
os.environ["PINPOINT_BEGAN"] = Path("/proc/uptime").read_text().split()[0]
"""
    status, output = ended(run(tmp_path, harm))
    results = tmp_path / "results"
    judge_fault("clock jumps", expected=("", 0), reported=("", status), lost=lost(tmp_path, results))
    figures = [json.loads(line) for line in (results / "latest" / "figures.jsonl").read_text().splitlines()]
    seconds = [figure["value"] for figure in figures if figure["figure"] in ("run.first_verdict_s", "run.wall_s")]
    assert len(seconds) == 2, output
    assert all(0 <= value < 300 for value in seconds)


def test_a_rows_process_killed(tmp_path: Path, judge_fault: Judge) -> None:
    """The cell whose process was killed is reported, and the rest of its row runs in another process."""
    harm = """
def test_kills_its_process(guest):
    import os
    import signal
    os.kill(os.getpid(), signal.SIGKILL)
"""
    nothing_to_build = "fleet.Fleet.start_building = lambda self, names, compared: None\n"
    status, output = ended(run(tmp_path, nothing_to_build, harm, (), "-n", "1"))
    results = tmp_path / "results"
    lines = (results / "latest" / "results.jsonl").read_text().splitlines()
    verdicts = {cell["case"]: cell["verdict"] for cell in map(json.loads, lines)}
    reported = (verdicts.get("test_kills_its_process", ""), status)
    judge_fault(
        "a row's process killed", expected=("harness-error", 3), reported=reported, lost=lost(tmp_path, results)
    )
    assert (verdicts["test_first"], verdicts["test_last"]) == ("pass", "pass"), output


def test_two_runs_at_once(tmp_path: Path, judge_fault: Judge) -> None:
    harm = """
def test_until_the_other_is_here(guest):
    import pathlib
    import time
    here = pathlib.Path(__file__).parent
    deadline = time.monotonic() + 120
    while len(list(here.glob("results/2*/results.jsonl"))) < 2:
        assert time.monotonic() < deadline
"""
    both = [run(tmp_path, "", harm) for _ in range(2)]
    for broken in both:
        status, output = ended(broken)
        judge_fault("two runs at once", expected=("", 0), reported=("", status))
        assert "3 passed" in output
    files = list(tmp_path.glob("results/2*/results.jsonl"))
    assert [len(file.read_text().splitlines()) for file in files] == [3, 3]
    assert (tmp_path / "results" / "latest").resolve() in [file.parent for file in files]


def test_no_port(tmp_path: Path, judge_fault: Judge) -> None:
    """If every port of the host is in use, QEMU cannot forward one."""
    harm = """
import socket
import struct
from fcntl import ioctl

import fault_guests
from harness.guest.accelerator import Accelerator

# SIOCSIFFLAGS: IFF_UP
with socket.socket() as link:
    ioctl(link, 0x8914, struct.pack("16sh14x", b"lo", 1))
pathlib_range = Path("/proc/sys/net/ipv4/ip_local_port_range")
pathlib_range.write_text("40000 40001")
taken = [socket.create_server(("127.0.0.1", port)) for port in (40000, 40001)]
del fleet.Fleet._prepare_and_start
"""
    prepared = "fleet.prepare = lambda recipe, build_context: fault_guests.Programs(HERE).image(recipe.name, b'')\n"
    # From here on guests are started by the real code, not by the stub above.
    harm = harm.replace(
        "del fleet.Fleet._prepare_and_start\n", "fleet.Fleet._prepare_and_start = boot_for_real\n" + prepared
    )
    status, output = ended(run(tmp_path, harm, "", ("unshare", "--user", "--map-root-user", "--net")))
    results = tmp_path / "results"
    verdicts = {json.loads(line)["verdict"] for line in (results / "latest" / "results.jsonl").read_text().splitlines()}
    (verdict,) = verdicts
    judge_fault("no port is free", expected=("harness-error", 3), reported=(verdict, status))
    assert "host forwarding" in output
