"""Time accounts of a run are received, summed up and recorded, and not shown as progress."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.core.events import Bus
from harness.guest import steal_time
from harness.guest.guest import Guest
from harness.report import time_accounts
from harness.report.live_or_plain_progress_board import Board
from harness.report.metrics_with_goals import Figures
from harness.report.run_dir import RunDirectory
from harness.report.time_accounts import Ledger

# Uses a third of a second of CPU time, under a process name that looks like the fields after it.
BURN = """
import sys, time
open("/proc/self/comm", "w").write(") R 1 (")
while time.process_time() < 0.3:
    pass
print(time.process_time(), flush=True)
sys.stdin.read()
"""


def test_what_rows_spend_is_summed_up_by_vm_and_thing() -> None:
    bus = Bus()
    kept = Ledger(bus)
    for seconds in (0.25, 0.5):
        bus.record_seconds("parisc", time_accounts.BODY, seconds)
    bus.record_seconds("parisc", time_accounts.GUEST, 1.0)
    with bus.step("parisc", time_accounts.BODY) as step:
        step.publish_progress("a step is no account")
    kept.merge_accounts({"parisc": {time_accounts.BODY: 1.0}, "arm64-debian": {time_accounts.THAW: 2.0}})
    assert kept.seconds_by_vm_and_activity == {
        "parisc": {time_accounts.BODY: 1.75, time_accounts.GUEST: 1.0},
        "arm64-debian": {time_accounts.THAW: 2.0},
    }


def test_what_is_clocked_counts_however_it_ends() -> None:
    bus = Bus()
    kept = Ledger(bus)
    with pytest.raises(ValueError, match="no"), bus.timed("parisc", time_accounts.CHECK_UP):
        raise ValueError("no")
    assert 0 < kept.seconds_by_vm_and_activity["parisc"][time_accounts.CHECK_UP] < 5


def test_each_second_of_a_cell_is_kept_once(tmp_path: Path) -> None:
    figures = Figures(RunDirectory.create(tmp_path))
    spent = {
        time_accounts.FIXTURES: 5.0,
        time_accounts.GUEST: 4.0,
        time_accounts.BODY: 2.0,
        time_accounts.ENDING: 1.0,
        time_accounts.CHECK_UP: 0.75,
    }
    time_accounts.record_figures(figures, {"parisc": {**spent, time_accounts.THAW: 3.5, time_accounts.GUEST_CPU: 6.5}})
    found = {figure.figure: figure.value for figure in figures.read()}
    parts = ["phase.guest_s", "phase.fixtures_s", "phase.body_s", "phase.check_up_s", "phase.ending_s"]
    assert [found[part] for part in parts] == [4.0, 1.0, 2.0, 0.75, 0.25]
    assert (
        sum(found[part] for part in parts)
        == spent[time_accounts.FIXTURES] + spent[time_accounts.BODY] + spent[time_accounts.ENDING]
    )
    assert (found["phase.thaw_s"], found["phase.boot_s"], found["run.guest_cpu_s"]) == (3.5, 0.0, 6.5)
    assert {figure.vm for figure in figures.read()} == {"parisc"}


def test_the_board_prints_no_accounts() -> None:
    bus = Bus()
    lines: list[str] = []
    board = Board(bus, False, lines.append)
    bus.record_seconds("parisc", time_accounts.BODY, 1.0)
    board.close()
    assert lines == []


def test_what_a_process_used_is_read_past_any_name() -> None:
    with subprocess.Popen([sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        reported = float(child.stdout.readline())
        used = steal_time.cpu_seconds_used(child.pid)
    assert reported >= 0.3
    assert abs(used - reported) < 0.1
    assert steal_time.cpu_seconds_used(child.pid) == 0.0


def test_a_guest_that_stops_reports_its_cpu_time_once() -> None:
    emulator = SimpleNamespace(monitor=SimpleNamespace(call_when_guest_stops=lambda _: None), cpu_seconds=0.0)

    def stop() -> None:
        emulator.cpu_seconds = 2.5

    emulator.stop = stop
    reported: list[float] = []
    guest = Guest(cast(Any, None), cast(Any, emulator), cast(Any, None))
    guest.when_stopped = reported.append
    guest.stop()
    guest.stop()
    assert reported == [2.5]


def test_ticks_are_seconds() -> None:
    before = sum(os.times()[:2])
    assert abs(steal_time.cpu_seconds_used(os.getpid()) - before) < 0.5
