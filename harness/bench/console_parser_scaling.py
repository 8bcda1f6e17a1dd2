"""Time of the readers of guest output against its size: 64 MiB of a repeated unit, compared with 32 MiB."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from harness.bench.context import BenchContext
from harness.bench.interleave import Measure
from harness.bench.measured_ratio_and_goal import FigureDefinition
from harness.verdict.complaints import read_complaints
from harness.verdict.traces import frames

# Inputs that were once read in more than linear time, and similar ones.
UNITS = {
    "p": b"p",
    "cr": b"\r",
    "crs_and_lines": b"\r\r\r\n",
    "escapes": b"\x1b[",
    "strings": b"\x1b]",
    "prefixes": b"[    1.000000]",
    "levels": b"<1>",
    "half_prefixes": b"[    1.00000",
    "panics": b"Kernel panic - not syncing",
    "words": b"a.a$",
    "frames": b"? f+0x",
    "lines": b"[    1.000000] a line as most are\r\n",
}
SMALL, LARGE = 32, 64
_MIB = 1 << 20
_GOAL = "at most 2.2"


def make_console_text(unit: str, size: int) -> str:
    """Return a console on which a complaint precedes `size` bytes of a unit."""
    repeated = UNITS[unit] * (size // len(UNITS[unit]))
    return (b"[    1.000000] BUG: x\n[    1.000000] " + repeated + b"\n").decode()


def read_complaints_and_frames(console: str) -> None:
    """Read complaints and their frames, as the check after each cell does."""
    for complaint in read_complaints(console, timed=True):
        frames(complaint.lines, {})


def _side(unit: str, mib: int) -> str:
    return f"{mib} MiB of {unit}"


PAIRS = tuple(
    FigureDefinition(
        f"readers_{unit}", f"seconds to read {LARGE} MiB of {unit}", _GOAL, _side(unit, LARGE), _side(unit, SMALL)
    )
    for unit in UNITS
)


@contextmanager
def open_sides(_context: BenchContext, wanted: Sequence[str]) -> Iterator[Mapping[str, Measure]]:
    """Yield a side for each unit and size: the processor time of this process, in seconds."""

    def measure(unit: str, mib: int) -> Measure:
        def once() -> float:
            console = make_console_text(unit, mib * _MIB)
            began = time.process_time()
            read_complaints_and_frames(console)
            return time.process_time() - began

        return once

    sides = {_side(unit, mib): measure(unit, mib) for unit in UNITS for mib in (SMALL, LARGE)}
    yield {name: sides[name] for name in wanted}
