"""Writes a trial of relocation by hand into the run's trial table."""

from __future__ import annotations

from harness.landing.checks.base_offset_trial import Trial
from harness.report.base_offset_table import TrialRow, Trials


def record_trial(trials: Trials, vm: str, trial: Trial, *, headline: bool = False) -> TrialRow:
    """Record a trial. The counts of a headline trial are also figures of the VM: `byhand.missed`, `bysymbol.missed`."""
    sizes = {f"{way}_bytes": size for way, size in trial.table_sizes()._asdict().items()}
    row = TrialRow(vm=vm, trial=trial.name, made_for=trial.made_for, **trial.counts(), **sizes)
    trials.add(row, headline=headline)
    return row
