"""Late work of the host is a failure of the host, not of a guest, and stopping it ends only our own children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.core import process
from harness.core.deadline import Deadline
from harness.core.errors import DeadlineExceeded, HostError
from harness.matrix.cells.cell_phases_and_verdict import verdict_of_error
from harness.verdict.cell_verdict_enum import Verdict


def test_late_work_of_the_host_is_no_hang() -> None:
    with pytest.raises(HostError, match="sleep did not end in time") as late:
        process.run(["sleep", "60"], deadline=Deadline.after(0.2))
    assert verdict_of_error(late.value) is Verdict.HARNESS_ERROR
    assert verdict_of_error(DeadlineExceeded("a guest")) is Verdict.HANG


def test_a_child_that_closed_its_output_is_ended_at_the_deadline() -> None:
    began = time.monotonic()
    with pytest.raises(HostError):
        process.run(["sh", "-c", "exec >/dev/null 2>&1; sleep 60"], deadline=Deadline.after(0.5))
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("to_log", [True, False])
@pytest.mark.parametrize("script", ["yes", "cat /dev/zero"])
def test_output_without_end_fills_neither_disk_nor_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, to_log: bool
) -> None:
    monkeypatch.setattr(process, "_MOST_OUTPUT", 4 << 20)
    log = tmp_path / "log" if to_log else None
    with pytest.raises(HostError, match="printed more than 4 MiB"):
        process.run(["sh", "-c", f"exec {script}"], deadline=Deadline.after(20), log=log)
    assert log is None or log.stat().st_size <= 4 << 20


def test_what_a_child_writes_just_before_its_end_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child is silent for a while, writes, and ends while this thread does not run."""

    def runs_after_a_delay(child: subprocess.Popen[bytes]) -> bool:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        return False

    monkeypatch.setattr(process, "_IDLE_SECONDS", 0.1)
    monkeypatch.setattr(process, "_runs", runs_after_a_delay)
    ended = process.run(["sh", "-c", "sleep 0.5; echo written"], deadline=Deadline.after(60))
    assert (ended.rc, ended.output) == (0, "written\n")


def test_a_child_that_was_waited_for_is_not_signalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may have its process id by then."""
    sent: list[int] = []
    child = process.spawn(["true"])
    child.wait(60)
    monkeypatch.setattr(os, "killpg", lambda *given: sent.append(given[0]))
    process.stop(child)
    assert sent == []


TAKES_THE_NUMBER = """
import os, signal, subprocess, sys
from harness.core import process
child = process.spawn(["true"])
child.wait(60)
with open("/proc/sys/kernel/ns_last_pid", "w") as last:
    last.write(str(child.pid - 1))
other = subprocess.Popen(["sleep", "60"], start_new_session=True)
print("same" if other.pid == child.pid else "another")
process.stop(child)
try:
    print("ended", other.wait(1))
except subprocess.TimeoutExpired:
    print("lives")
other.kill()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a PID namespace here")
def test_the_process_that_has_the_number_now_lives() -> None:
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", TAKES_THE_NUMBER],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "same" not in done.stdout:
        pytest.skip(f"this kernel gives no number again: {done.stdout}{done.stderr[-200:]}")
    assert done.stdout.split() == ["same", "lives"]


def test_what_a_child_left_in_its_group_is_ended(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = f"trap '' TERM; (trap '' TERM; echo $$ >{pid_file}; sleep 60) & exec sleep 60"
    child = process.spawn(["sh", "-c", script])
    deadline = Deadline.after(60)
    while not pid_file.exists() or not pid_file.read_text().strip():
        deadline.require_time_left("start")
        time.sleep(0.01)
    process.stop(child, 0.5)
    assert child.returncode == -signal.SIGKILL
    while True:
        left = subprocess.run(["pgrep", "-g", str(child.pid)], capture_output=True, check=False).stdout
        if not left:
            break
        deadline.require_time_left(f"end of {left!r}")
        time.sleep(0.05)
