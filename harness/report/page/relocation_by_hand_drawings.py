"""The trial of relocation by hand as pictures: shares of functions, the bytes of one, and the layout of two builds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from harness.report.relocation_by_hand_drawing_records import (
    FunctionInTwoBuilds,
    RecordedBytesAroundAddress,
    RelocatedFunctionExample,
)
from harness.report.relocation_by_hand_table import TrialRow

# What a trial counts, with its name in the pictures: functions that land, then the places of those that miss.
SHARES: Mapping[str, str] = {
    "lands": "lands",
    "instruction": "on another instruction",
    "mid_instruction": "inside an instruction",
    "in_stub": "on a stub",
    "in_padding": "in padding",
    "unnamed_code": "in unnamed code",
    "outside_text": "outside of text",
}
# Pictures are this wide, in units of their own.
WIDTH = 1000.0
# The places of the two digits of a byte, from where the byte begins.
_DIGIT_PLACES = (5.0, 14.0)


@dataclass(frozen=True)
class BarPart:
    """A part of a bar: its place and width, how many functions it is, and their kind."""

    kind: str
    name: str
    function_count: int
    x: float
    width: float


@dataclass(frozen=True)
class TrialBar:
    """One trial as a bar."""

    row: TrialRow
    parts: Sequence[BarPart]

    @property
    def sentence(self) -> str:
        """The bar in words."""
        parts = ", ".join(f"{part.function_count:,} {part.name}" for part in self.parts)
        return f"{self.row.vm}, {self.row.trial}: of {self.row.symbols:,} functions {parts}"


@dataclass(frozen=True)
class BytesOfOneKind:
    """Neighboring bytes of one kind: their place and width."""

    kind: str
    x: float
    width: float


@dataclass(frozen=True)
class ByteStrip:
    """The bytes of a stretch in a row.

    `digits` are the hex digits of all bytes and `digit_places` the place of each; `instruction_places` are where
    instructions begin. `pointer_x` is the middle of the byte that is pointed to.
    """

    title: str
    runs: Sequence[BytesOfOneKind]
    digits: str
    digit_places: Sequence[float]
    instruction_places: Sequence[float]
    pointer_x: float
    label: str


@dataclass(frozen=True)
class LayoutOfTwoBuilds:
    """Two rows of functions: each is a name, a place and width above, and a place and width below."""

    functions: Sequence[tuple[str, float, float, float, float]]
    unmoved_count: int


def bars_by_vm(rows: Iterable[TrialRow]) -> Mapping[str, Sequence[TrialBar]]:
    """The trials of each VM as bars."""
    found: dict[str, list[TrialBar]] = {}
    for row in rows:
        found.setdefault(row.vm, []).append(TrialBar(row, _parts(row)))
    return found


def _parts(row: TrialRow) -> list[BarPart]:
    counts = {"lands": row.symbols - row.missed, **{kind: getattr(row, kind) for kind in list(SHARES)[1:]}}
    parts, x = [], 0.0
    for kind, count in counts.items():
        if count and row.symbols:
            width = WIDTH * count / row.symbols
            parts.append(BarPart(kind, SHARES[kind], count, round(x, 1), round(width, 1)))
            x += width
    return parts


def first_bar_with_miss(made: Iterable[TrialBar]) -> TrialBar | None:
    """The first trial whose drawing shows a miss."""
    return next((bar for bar in made if bar.row.drawing and bar.row.drawing.place), None)


def byte_strips(drawing: RelocatedFunctionExample) -> list[ByteStrip]:
    """Where symbol + offset points, and where relocation by hand points, if that is text."""
    made = [_strip("symbol + offset", drawing.by_symbol, drawing.function)]
    return [*made, _strip("by hand", drawing.by_hand, drawing.by_hand.label)] if drawing.by_hand else made


def _strip(title: str, stretch: RecordedBytesAroundAddress, label: str) -> ByteStrip:
    code = bytes.fromhex(stretch.code)[: len(stretch.kinds)]
    width = WIDTH / max(len(code), 1)
    runs, begin = [], 0
    # The rest of an instruction has the color of its first byte.
    drawn_kinds = ["instruction" if kind == "mid_instruction" else kind for kind in stretch.kinds[: len(code)]]
    for kind, same in groupby(drawn_kinds):
        count = len(list(same))
        runs.append(BytesOfOneKind(kind, round(begin * width, 1), round(count * width, 1)))
        begin += count
    return ByteStrip(
        title,
        runs,
        code.hex(),
        [round(index * width + place, 1) for index in range(len(code)) for place in _DIGIT_PLACES],
        [round(index * width, 1) for index, kind in enumerate(stretch.kinds) if kind == "instruction"],
        round((stretch.marked + 0.5) * width, 1),
        f"{label} at {stretch.address + stretch.marked:#x}",
    )


def layout_of_two_builds(moved: Sequence[FunctionInTwoBuilds]) -> LayoutOfTwoBuilds | None:
    """The layout of two builds; None where every function keeps its distance, or all move by one."""
    if len({each.here - each.made_for for each in moved}) < 2:
        return None
    low = min(min(each.made_for, each.here) for each in moved)
    high = max(max(each.made_for, each.here) + each.size for each in moved)
    scale = WIDTH / max(high - low, 1)
    placed = [
        (
            each.name,
            round((each.made_for - low) * scale, 1),
            round(max(each.size * scale, 1.5), 1),
            round((each.here - low) * scale, 1),
            round(max(each.size * scale, 1.5), 1),
        )
        for each in moved
    ]
    return LayoutOfTwoBuilds(placed, sum(each.here == each.made_for for each in moved))
