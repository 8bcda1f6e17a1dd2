"""What a square of the heat map opens to, as one compact JSON object that the page's script reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.report.page.case_docstrings import read_claims
from harness.report.page.excerpts import ExcerptReader
from harness.report.pivot import Pivot
from harness.report.record import Cell
from harness.verdict.printk import without_control_codes

# Witness rows that a cell shows; the others are in results.jsonl. A case of every instruction has hundreds.
_ROWS = 40


class StringPool:
    """Strings by number: addresses and reasons repeat thousands of times."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def index_of(self, text: str) -> int:
        """The number of a string; control codes are removed."""
        return self._numbers.setdefault(without_control_codes(text), len(self._numbers))

    @property
    def strings(self) -> list[str]:
        """Every string by its number."""
        return list(self._numbers)


def details_json(pivot: Pivot, replay: Callable[[Cell], str], excerpts: ExcerptReader) -> str:
    """The JSON text, safe inside a script element.

    `pool` holds the strings, `vms` the VMs' names, `cases` for each case its name, file and claim, and `squares` the
    cells by `case,vm`: mutant, verdict, seconds, reason, columns and rows of the witness table, rows left out, bundle,
    replay command, failure, console. Every string is a number in the pool; numbers below zero are "none".
    """
    pool, columns = StringPool(), StringPool()
    squares: dict[str, list[list[Any]]] = {}
    places = {case: number for number, case in enumerate(pivot.cases)}
    vms = {vm: number for number, vm in enumerate(pivot.vms)}
    for cell in sorted(pivot.latest_cells, key=lambda cell: cell.mutant):
        key = f"{places[cell.file, cell.case]},{vms[cell.vm]}"  # type: ignore[index]
        squares.setdefault(key, []).append(
            _cell(cell, pool, columns, replay(cell), excerpts.read_failure_and_console(cell))
        )
    content = {
        "cases": [[case.case, case.file, read_claims(case.file).claim_of_case(case.case)] for case in pivot.cases],
        "vms": list(pivot.vms),
        "squares": squares,
        "columns": [text.split("\t") for text in columns.strings],
        "pool": pool.strings,
    }
    # Inside a script element only these three could begin markup (HTML, "restrictions for contents of script").
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _cell(cell: Cell, pool: StringPool, columns: StringPool, replay: str, excerpt: Mapping[str, str]) -> list[Any]:
    shown = cell.witnesses[:_ROWS]
    names = list(dict.fromkeys(name for row in shown for name in row))
    rows = [[_number(pool, row.get(name)) for name in names] for row in shown]
    return [
        _number(pool, cell.mutant),
        pool.index_of(cell.verdict.value),
        round(cell.seconds, 2),
        _number(pool, cell.reason),
        columns.index_of("\t".join(names)) if names else -1,
        _without_repeats(rows),
        len(cell.witnesses) - len(shown),
        _number(pool, cell.bundle),
        _number(pool, replay),
        _number(pool, excerpt.get("failure", "")),
        _number(pool, excerpt.get("console", "")),
        _number(pool, cell.accelerator),
        _number(pool, cell.qemu),
        _number(pool, cell.image_key),
    ]


def _number(pool: StringPool, value: object) -> int:
    if value is None or value == "":
        return -1
    return pool.index_of(value if isinstance(value, str) else json.dumps(value, default=str))


def _without_repeats(rows: Sequence[list[int]]) -> list[int]:
    """The rows one after the other. A witness that names the address left of it is -2: most agree."""
    flat = []
    for row in rows:
        flat += [-2 if index and value == row[index - 1] and value >= 0 else value for index, value in enumerate(row)]
    return flat
