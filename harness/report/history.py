"""Verdicts, durations and figures over the kept runs, in one SQLite file that is rebuilt when it is missing."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from harness.core.errors import HostError
from harness.report.metrics_with_goals import Figures
from harness.report.record import Results
from harness.report.run_dir import RunDirectory
from harness.verdict.cell_verdict_enum import Verdict

_NAME = "history.sqlite"
_SECONDS = 10.0
# Raised when the tables change: a file of another version is replaced.
_VERSION = 2
_TABLES = """
CREATE TABLE IF NOT EXISTS runs (run TEXT PRIMARY KEY, bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS cells (
    run TEXT NOT NULL, file TEXT NOT NULL, cell TEXT NOT NULL, vm TEXT NOT NULL, mutant TEXT NOT NULL,
    verdict TEXT NOT NULL, reason TEXT NOT NULL, seconds REAL NOT NULL, image_key TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS cells_by_name ON cells (cell, vm, mutant);
CREATE INDEX IF NOT EXISTS cells_by_run ON cells (run, vm);
CREATE TABLE IF NOT EXISTS figures (run TEXT NOT NULL, figure TEXT NOT NULL, vm TEXT NOT NULL, value REAL NOT NULL);
CREATE INDEX IF NOT EXISTS figures_by_run ON figures (run);
"""


class CellHistory(NamedTuple):
    """One cell over the kept runs: its verdicts from the oldest run to the newest, and its median seconds.

    `flaky` is true when runs with the same image key ended in different verdicts; skips do not count.
    """

    file: str
    case: str
    vm: str
    mutant: str
    verdicts: tuple[Verdict, ...]
    seconds: float
    flaky: bool


def read_history(results: Path, case: str = "") -> list[CellHistory]:
    """Return the history of each cell below `results` whose case has `case` in its name.

    Raises HostError when the history file cannot be used.
    """
    with _open(results) as database:
        _update(database, results)
        rows = database.execute(
            "SELECT file, cell, vm, mutant, verdict, CAST(seconds AS REAL), image_key FROM cells "
            f"WHERE instr(cell, ?) AND verdict IN ({', '.join('?' * len(Verdict))}) "
            "ORDER BY file, cell, vm, mutant, run",
            (case, *(verdict.value for verdict in Verdict)),
        ).fetchall()
    grouped: dict[tuple[str, str, str, str], list[tuple[str, float, str]]] = {}
    for file, name, vm, mutant, verdict, seconds, image_key in rows:
        grouped.setdefault((file, name, vm, mutant), []).append((verdict, seconds, image_key))
    return [_past(key, runs) for key, runs in grouped.items()]


def last_earlier_run_by_vm(results: Path, run: str, vms: Collection[str]) -> dict[str, str]:
    """The last kept run before `run` of each of these VMs, by VM; a VM without one is left out.

    A run of a VM counts when one of its cells there ended in another verdict than a skip. Raises HostError.
    """
    with _open(results) as database:
        _update(database, results)
        rows = database.execute(
            "SELECT vm, max(run) FROM cells WHERE run < ? AND verdict != ? GROUP BY vm", (run, Verdict.SKIP.value)
        ).fetchall()
    return {vm: last for vm, last in rows if vm in vms}


def past_values_by_figure(results: Path, until: str, most: int) -> Mapping[tuple[str, str], Sequence[float]]:
    """The values of each figure, by name and VM, over the last `most` kept runs up to the run `until`, oldest first.

    Raises HostError.
    """
    with _open(results) as database:
        _update(database, results)
        rows = database.execute(
            "SELECT figure, vm, CAST(value AS REAL) FROM figures WHERE run IN "
            "(SELECT run FROM runs WHERE run <= ? ORDER BY run DESC LIMIT ?) ORDER BY run",
            (until, most),
        ).fetchall()
    found: dict[tuple[str, str], list[float]] = {}
    for figure, vm, value in rows:
        found.setdefault((figure, vm), []).append(value)
    return found


def _past(key: tuple[str, str, str, str], runs: Sequence[tuple[str, float, str]]) -> CellHistory:
    verdicts = tuple(Verdict(verdict) for verdict, _, _ in runs)
    by_image: dict[str, set[str]] = {}
    for verdict, _, image_key in runs:
        if image_key and Verdict(verdict) is not Verdict.SKIP:
            by_image.setdefault(image_key, set()).add(verdict)
    seconds = sorted(each for _, each, _ in runs)
    return CellHistory(*key, verdicts, seconds[len(seconds) // 2], any(len(seen) > 1 for seen in by_image.values()))


@contextmanager
def _open(results: Path) -> Iterator[sqlite3.Connection]:
    path = results / _NAME
    try:
        # SQLite would create the target of a link.
        if path.is_symlink():
            path.unlink()
        with closing(sqlite3.connect(path, timeout=_SECONDS)) as database:
            if _usable(database):
                yield database
                return
        # No database, a damaged one, or one of another version. It holds nothing that the runs do not hold.
        path.unlink()
        with closing(sqlite3.connect(path, timeout=_SECONDS)) as fresh:
            _usable(fresh)
            yield fresh
    except (sqlite3.Error, OSError) as error:
        raise HostError(
            f"cannot be used: {error}", where=str(path), mend="remove it; it is rebuilt from the kept runs"
        ) from None


def _usable(database: sqlite3.Connection) -> bool:
    """Create the tables of an empty file; False for a damaged file and for one of another version.

    A file that came with other people's results may have views or triggers, whose SQL could run without end.
    """
    try:
        database.execute("PRAGMA trusted_schema = OFF")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        tables = _schema(database)
        if tables:
            return bool(version == _VERSION and tables == _our_schema())
        database.executescript(f"{_TABLES}PRAGMA user_version = {_VERSION};")
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        return False
    return True


def _schema(database: sqlite3.Connection) -> list[tuple[str, str, str]]:
    return database.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name LIMIT 100").fetchall()


@cache
def _our_schema() -> list[tuple[str, str, str]]:
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(_TABLES)
        return _schema(database)


def _update(database: sqlite3.Connection, results: Path) -> None:
    """Add runs that are new or have grown, and forget runs that were removed."""
    kept = {
        directory.name: directory.results_file.stat().st_size + _size(directory.figures_file)
        for path in sorted(results.iterdir())
        if path.is_dir() and not path.is_symlink() and (directory := RunDirectory(path)).results_file.is_file()
    }
    known = dict(database.execute("SELECT run, bytes FROM runs"))
    with database:
        for run in known.keys() - kept.keys():
            _forget(database, run)
        for run, size in kept.items():
            if known.get(run) == size:
                continue
            _forget(database, run)
            database.execute("INSERT INTO runs VALUES (?, ?)", (run, size))
            database.executemany(
                "INSERT INTO figures VALUES (?, ?, ?, ?)",
                [(run, each.figure, each.vm, each.value) for each in Figures(RunDirectory(results / run)).read()],
            )
            database.executemany(
                "INSERT INTO cells VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (run, *cell.key, cell.verdict.value, cell.reason, cell.seconds, cell.image_key)
                    for cell in Results(RunDirectory(results / run)).read_cells()
                ],
            )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _forget(database: sqlite3.Connection, run: str) -> None:
    database.execute("DELETE FROM figures WHERE run = ?", (run,))
    database.execute("DELETE FROM cells WHERE run = ?", (run,))
    database.execute("DELETE FROM runs WHERE run = ?", (run,))
