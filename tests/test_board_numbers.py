"""The numbers of the board: builds, guests, cells, rate, time left; in colors only where they are wanted."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pexpect
import pytest
from sample_runs import cell

from harness.core import paths
from harness.core.events import Bus, Event, EventKind
from harness.report import live_or_plain_progress_board as board_module
from harness.report import progress_state as progress
from harness.report.live_or_plain_progress_board import Board
from harness.report.progress_state import Progress
from harness.verdict.cell_verdict_enum import Verdict


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_builds_guests_cells_rate_and_time_left(clock: Clock) -> None:
    bus = Bus()
    made = Progress(bus)
    assert str(made.run_progress_and_rate(clock.now)) == "0 builds, 0 guests, 0/? cells"
    made.set_expected_cells({"parisc": 10, "arm64-debian": 10})
    bus.publish(Event("parisc", "kernel", EventKind.STARTED))
    bus.publish(Event("arm64-debian", "thaw", EventKind.PROGRESS, worker="w2"))
    bus.publish(Event("x86_64-debian", "modules", EventKind.FINISHED))
    assert str(made.run_progress_and_rate(clock.now)) == "1 build, 1 guest, 0/20 cells"
    bus.publish(Event("arm64-debian", "thaw", EventKind.FINISHED, worker="w2"))
    for _ in range(5):
        made.count_finished_cell(cell("test_a", "arm64-debian"))
        clock.now += 2.0
    clock.now -= 2.0
    made.count_finished_cell(cell("test_b", "arm64-debian", Verdict.OOPS))
    tally = made.run_progress_and_rate(clock.now)
    # Six cells ended; five of them in eight seconds since the first.
    assert (tally.active_builds, tally.active_vms, tally.ended_cells, tally.expected_cells) == (1, 1, 6, 20)
    assert tally.cells_per_second == pytest.approx(5 / 8)
    assert tally.seconds_left == pytest.approx(14 / (5 / 8))
    assert str(tally) == "1 build, 1 guest, 6/20 cells, 0.6 cells/s, 22.4s left"
    assert made.ended_expected_and_failed_cells("arm64-debian") == (6, 10, 1)
    # A row whose cells have all ended has no guest.
    for _ in range(4):
        made.count_finished_cell(cell("test_c", "arm64-debian"))
    assert made.run_progress_and_rate(clock.now).active_vms == 0


def test_without_a_terminal_the_numbers_are_a_plain_line_once_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    board = Board(Bus(), False, lines.append)
    board.set_expected_cells({"parisc": 4})
    board.count_finished_cell(cell("test_a", "parisc"))
    board.print_new_steps_as_plain_lines()
    assert lines == []
    monkeypatch.setattr(board_module, "_TALLY_SECONDS", 0.0)
    board.print_new_steps_as_plain_lines()
    board.print_new_steps_as_plain_lines()
    assert len(lines) == 1
    assert re.fullmatch(r"\[ +\d+\.\ds\] 0 builds, 1 guest, 1/4 cells", lines[0])
    # While no cell ends, and there are cells, a longer time must pass.
    monkeypatch.setattr(board_module, "_QUIET_TALLY_SECONDS", 0.0)
    board.print_new_steps_as_plain_lines()
    assert len(lines) == 2
    Board(Bus(), False, lines.append).print_new_steps_as_plain_lines()
    assert len(lines) == 2


LIVE = """
import sys
from harness.core.events import Bus, Event, EventKind
from harness.report.live_or_plain_progress_board import Board
from sample_runs import cell
from harness.verdict.cell_verdict_enum import Verdict
bus = Bus()
board = Board(bus, sys.stdout.isatty())
board.set_expected_cells({"parisc": 4, "arm64-debian": 2})
bus.publish(Event("parisc", "thaw", EventKind.FINISHED, worker="w1"))
bus.publish(Event("arm64-debian", "kernel", EventKind.PROGRESS, "compiling", 0.41))
board.count_finished_cell(cell("test_a", "parisc"))
board.count_finished_cell(cell("test_b", "parisc", Verdict.OOPS))
sys.stdin.readline()
board.close()
"""


@pytest.mark.parametrize("no_color", ["", "1"])
def test_the_live_view_shows_them_and_knows_no_color(tmp_path: Path, no_color: str) -> None:
    env = {**os.environ, "PYTHONPATH": f"{paths.PROJECT}:{paths.TESTS}", "TERM": "xterm", "COLUMNS": "120"}
    env.pop("NO_COLOR", None)
    if no_color:
        env["NO_COLOR"] = no_color
    child = pexpect.spawn(sys.executable, ["-c", LIVE], env=env, timeout=60, encoding="utf-8", dimensions=(24, 120))
    child.logfile_read = (tmp_path / "log").open("w")
    child.expect("1 build, 1 guest, 2/6 cells")
    child.expect("0/2")
    child.expect("2/4")
    child.expect("1 bad")
    child.sendline()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    # 30 to 37 and their like choose a color; bold and dim are none.
    colored = re.findall(r"\x1b\[(?:\d+;)*(?:3[0-9]|9[0-7])(?:;\d+)*m", (tmp_path / "log").read_text())
    assert bool(colored) is not bool(no_color)
