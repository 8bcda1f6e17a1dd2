"""Writes a trial of relocation by hand into the run's trial table."""

from __future__ import annotations

from harness.landing.checks import trial_example
from harness.landing.checks.relocation_by_hand_trial import Trial
from harness.report.relocation_by_hand_drawing_records import (
    FunctionInTwoBuilds,
    RecordedBytesAroundAddress,
    RelocatedFunctionExample,
)
from harness.report.relocation_by_hand_table import TrialRow, Trials


def record_trial(trials: Trials, vm: str, trial: Trial, *, headline: bool = False) -> TrialRow:
    """Record a trial. The counts of a headline trial are also figures of the VM: `byhand.missed`, `bysymbol.missed`."""
    sizes = {f"{way}_bytes": size for way, size in trial.relocation_data_sizes()._asdict().items()}
    row = TrialRow(
        vm=vm,
        trial=trial.name,
        made_for=trial.made_for,
        **trial.counts(),
        **sizes,
        drawing=_drawing(trial),
        moved=tuple(FunctionInTwoBuilds(*each) for each in trial_example.sample_distances_from_base(trial)),
    )
    trials.add(row, headline=headline)
    return row


def _drawing(trial: Trial) -> RelocatedFunctionExample | None:
    aim = trial_example.select_example_function(trial)
    here = aim and _stretch(trial, aim.true_address)
    if aim is None or here is None:
        return None
    return RelocatedFunctionExample(
        function=str(aim.site),
        by_symbol=here,
        by_hand=_stretch(trial, aim.computed_address),
        place="" if aim.lands else aim.kind_at_address.value,
        distance=aim.computed_address - aim.true_address,
    )


def _stretch(trial: Trial, address: int) -> RecordedBytesAroundAddress | None:
    found = trial_example.read_bytes_around_address(trial.classifier, address)
    if found is None:
        return None
    kinds = [kind.value for kind in found.address_kinds]
    return RecordedBytesAroundAddress(
        address=found.address, code=found.code.hex(), kinds=kinds, marked=found.marked_index, label=found.label
    )
