"""The results of the shards of a run, or of several runs, as one run; a shard that is missing fails it."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from harness.core import paths
from harness.core.errors import CELL_FAILED, UsageError
from harness.core.files import read_regular_file, write_text
from harness.matrix.commands.baseline_gate import Gate
from harness.matrix.exit_status_and_counts import exit_status, record_cell_figures
from harness.matrix.shard import Shard
from harness.report import jsonl, timeline
from harness.report.copy_untrusted_files import UntrustedFileCopier
from harness.report.export.junit import junit
from harness.report.html import write_report_of_run
from harness.report.lost_cells import LostCell
from harness.report.metrics_with_goals import Figures
from harness.report.record import Cell, CellKey, Results
from harness.report.run_dir import RunDirectory
from harness.report.shard_file import ShardRecord, read_shard_record

_LARGEST_LIST = 1 << 20


class ExpectedShard(BaseModel):
    """One job of `./pinpoint list --format github`."""

    vm: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")
    shard: str


@dataclass
class MergedRun:
    """The run that was written. `problems` are lines about shards; with any of them the run has failed."""

    directory: RunDirectory
    cells: list[Cell] = field(default_factory=list)
    missing: list[LostCell] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The exit status: as of a run, and 1 if a shard is missing."""
        return exit_status(pytest.ExitCode.OK, self.cells, complete=self.is_complete)

    @property
    def is_complete(self) -> bool:
        """True if all shards came once and each of their cells has a result."""
        return not (self.missing or self.problems)

    def judge_and_report(self, gate: Gate) -> int:
        """Compare with the gate's baseline, print the difference, and return the exit status.

        An incomplete run has failed, whatever the baseline has. Without a baseline nothing is printed.
        """
        gate.listener.cells = self.cells
        gate.listener.selected_keys = {each.key for each in self.cells} | {
            CellKey(each.file, each.case, each.vm, each.mutant) for each in self.missing
        }
        status = gate.judge_and_report(self.status)
        return status if status or self.is_complete else CELL_FAILED


def read_expected_shards(path: Path) -> list[ExpectedShard]:
    """Read what `./pinpoint list --format github` printed. Raises UsageError."""
    try:
        jobs = json.loads(read_regular_file(path, _LARGEST_LIST))["include"]
        found = TypeAdapter(list[ExpectedShard]).validate_python(jobs)
    except OSError as error:
        raise UsageError(str(error.strerror), where=str(path), mend="name a file") from None
    except (ValueError, KeyError, TypeError, RecursionError, ValidationError):
        mend = f"write it with {paths.PROGRAM} list --format github"
        raise UsageError("is no list of jobs", where=str(path), mend=mend) from None
    for each in found:
        Shard.parse(each.shard)
    return found


def merge(runs: Sequence[RunDirectory], expected: Sequence[ExpectedShard], into: Path) -> MergedRun:
    """Write the results of the runs as one new run below `into`.

    Each run must have been started with --shard and have ended, and all shards of each whole run must be there once.
    Raises OSError and HostError when the results cannot be written.
    """
    merged = MergedRun(RunDirectory.create(into))
    groups: defaultdict[str, list[tuple[ShardRecord, RunDirectory]]] = defaultdict(list)
    for run in runs:
        if record := read_shard_record(run):
            groups[record.whole_run].append((record, run))
        else:
            merged.problems.append(f"{run.name}: has no {run.shard_file.name}: it did not end, or ran without --shard")
    for group in groups.values():
        _add_group(merged, group)
    came = {(cell.vm, f"{record.shard}/{record.count}") for group in groups.values() for record, _ in group
            for cell in record.cells if cell.shard == record.shard}  # fmt: skip
    merged.problems += [
        f"{each.vm}: shard {each.shard} is missing" for each in expected if (each.vm, each.shard) not in came
    ]
    _write(merged)
    return merged


def _add_group(merged: MergedRun, group: Sequence[tuple[ShardRecord, RunDirectory]]) -> None:
    """Add the shards of one whole run: their cells, and those that have no result."""
    whole, _ = group[0]
    by_number = Counter(record.shard for record, _ in group)
    vms = ", ".join(sorted({cell.vm for cell in whole.cells}))
    for number in range(1, whole.count + 1):
        lacking = sum(cell.shard == number for cell in whole.cells)
        if not by_number[number]:
            merged.problems.append(f"{vms}: shard {number}/{whole.count} is missing, with {lacking} cells")
        elif by_number[number] > 1:
            merged.problems.append(f"{vms}: shard {number}/{whole.count} is there {by_number[number]} times")
    shard_of = {cell.key: cell.shard for cell in whole.cells}
    ran: set[CellKey] = set()
    for record, run in group:
        cells, unreadable = Results(run).read_with_damage_count()
        if unreadable:
            merged.problems.append(f"{run.name}: {unreadable} results cannot be read")
        if strange := [cell for cell in cells if shard_of.get(cell.key) != record.shard]:
            merged.problems.append(f"{run.name}: {len(strange)} results are of no cell of its shard")
        new = [cell for cell in cells if cell.key not in ran]
        merged.cells += new
        ran |= {cell.key for cell in new}
        if left_out := _copy_files(merged.directory, run, record.shard):
            merged.problems.append(f"{run.name}: {left_out} files are links, devices or too large and were left out")
    merged.missing += [
        LostCell(file=cell.file, case=cell.case, vm=cell.vm, mutant=cell.mutant)
        for cell in whole.cells
        if cell.key not in ran
    ]
    images: Mapping[str, set[str]] = {
        vm: {cell.image_key for cell in merged.cells if cell.vm == vm and cell.image_key} for vm in vms.split(", ")
    }
    merged.problems += [f"{vm}: its shards ran on {len(keys)} images" for vm, keys in images.items() if len(keys) > 1]


def _copy_files(into: RunDirectory, run: RunDirectory, shard: int) -> int:
    """Copy bundles, console logs, figures and times of one shard; return how many files were left out."""
    copier = UntrustedFileCopier()
    copier.copy_directory(run.bundles_directory, into.bundles_directory)
    console = run.path / "console"
    copier.copy_files(console, {log.name: _name_with_shard(log.name, shard) for log in console.glob("*.log")},
                      into.path / "console")  # fmt: skip
    jsonl.append_all(into.figures_file, Figures(run).read())
    spans = timeline.read_spans(run)
    jsonl.append_all(
        into.timeline_file, [span.model_copy(update={"worker": f"{span.worker} of shard {shard}"}) for span in spans]
    )
    return copier.left_out_count


def _name_with_shard(log: str, shard: int) -> str:
    """Return the name of a copied console log: VM.log or VM.PART.log, with the shard before the part.

    A row that was divided has parts `p1`, `p2` and so on; what ran again in another process ends with `r2`.
    """
    part = re.search(r"\.(p\d+|(?:p\d+)?r\d+)\.log$", log)
    return f"{log.removesuffix(part[0] if part else '.log')}.shard{shard}{part[1] if part else ''}.log"


def _write(merged: MergedRun) -> None:
    """Write the results, the figures of all cells, the report and the JUnit file."""
    directory = merged.directory
    write_text(directory.results_file, "".join(f"{jsonl.ascii_json(cell)}\n" for cell in merged.cells))
    record_cell_figures(Figures(directory), merged.cells, merged.missing)
    write_report_of_run(directory, merged.missing)
    write_text(directory.pytest_junit_file, junit(merged.cells, directory.name, merged.missing))
    Results(directory).free_reserved_space()
