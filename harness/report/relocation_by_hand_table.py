"""The trial table compares relocation by hand with symbol + offset; it has a row for each trial and VM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict
from rich import box
from rich.table import Table

from harness.report import jsonl
from harness.report.metrics_with_goals import Figures
from harness.report.relocation_by_hand_drawing_records import FunctionInTwoBuilds, RelocatedFunctionExample
from harness.report.run_dir import RunDirectory

# Where a probe lands that misses after relocation by hand: the record's field, and the heading of the table.
PLACES: Mapping[str, str] = {
    "instruction": "into other\ninstruction",
    "mid_instruction": "into mid-\ninstruction",
    "in_stub": "into\nstub",
    "in_padding": "into\npadding",
    "unnamed_code": "into unna-\nmed code",
    "outside_text": "outside\ntext",
}


class TrialRow(BaseModel):
    """One trial: a line of `trials.jsonl`.

    `symbols` is how many functions were tried. `missed` is how many of them relocation by hand puts elsewhere; the next
    six fields count them by kind of place. `missed_by_symbol` is the same as `missed` for symbol + offset.
    `table_bytes` is the size of the tables that relocation by hand adds to a probe module, whatever is probed.
    `by_hand_bytes` is that size and a site for each symbol; `by_symbol_bytes` is a site for each symbol by its name.
    `drawing` is one function as an example and `moved` a sample of the functions in both layouts; runs of earlier
    versions have neither.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    vm: str
    trial: str
    made_for: str
    symbols: int
    missed: int
    instruction: int
    mid_instruction: int
    in_stub: int
    in_padding: int
    unnamed_code: int
    outside_text: int
    missed_by_symbol: int
    table_bytes: int
    by_hand_bytes: int
    by_symbol_bytes: int
    drawing: RelocatedFunctionExample | None = None
    moved: tuple[FunctionInTwoBuilds, ...] = ()

    @property
    def column_texts(self) -> list[str]:
        """The row as printed in the table; a count of zero is a dash."""
        counts = [self.symbols, self.missed, *(getattr(self, place) for place in PLACES), self.missed_by_symbol]
        shown = [f"{count:,}" if count else "-" for count in counts]
        sizes = [self.by_hand_bytes, self.by_symbol_bytes]
        return [self.vm, self.trial, self.made_for, *shown, *(f"{size:,}" for size in sizes)]


HEADINGS = (
    *("VM", "trial", "made for", "func-\ntions", "by hand\nmissed"),
    *PLACES.values(),
    *("by symbol\nmissed", "by hand\nbytes", "by symbol\nbytes"),
)
# Names are left-aligned, counts right-aligned.
NAME_COLUMNS = 3


class Trials:
    """`trials.jsonl` of a run, and its figures."""

    def __init__(self, directory: RunDirectory, figures: Figures) -> None:
        self._path = directory.trials_file
        self._figures = figures

    def add(self, row: TrialRow, *, headline: bool) -> None:
        """Append a row, and each of its counts as a figure `byhand.<trial>.<count>`.

        The counts of a headline trial are also figures of the VM: `byhand.symbols`, `byhand.missed`,
        `bysymbol.missed`, and so on. Raises HostError.
        """
        jsonl.append(self._path, row)
        for scope in (f"{row.trial}.", *([""] if headline else [])):
            for count in ("symbols", "missed", *PLACES):
                self._figures.add(f"byhand.{scope}{count}", getattr(row, count), "functions", vm=row.vm)
            self._figures.add(f"bysymbol.{scope}missed", row.missed_by_symbol, "functions", vm=row.vm, goal="0")
            for way, size in (("byhand", row.by_hand_bytes), ("bysymbol", row.by_symbol_bytes)):
                self._figures.add(f"{way}.{scope}bytes", size, "bytes", vm=row.vm)
            self._figures.add(f"byhand.{scope}table_bytes", row.table_bytes, "bytes", vm=row.vm)

    def read(self) -> list[TrialRow]:
        """Return the rows written so far, sorted by VM, because VMs run in parallel."""
        rows = jsonl.read(self._path, TrialRow)
        order = list(dict.fromkeys(row.vm for row in rows))
        return sorted(rows, key=lambda row: order.index(row.vm))


def table(rows: Sequence[TrialRow]) -> Table:
    """Return the table for a terminal."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="Relocation by hand on trial", title_justify="left")
    for index, heading in enumerate(HEADINGS):
        made.add_column(heading, justify="left" if index < NAME_COLUMNS else "right", overflow="fold")
    for row in rows:
        made.add_row(*row.column_texts)
    return made
