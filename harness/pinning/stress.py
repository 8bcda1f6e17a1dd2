"""Races without gates: a target is loaded, removed, read and probed concurrently; then the guest is checked."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from harness.guest.guest import Guest
from harness.guest.result import parsing_guest_text
from harness.landing.landing_judgment import Missed
from harness.landing.target import Target
from harness.pinning.hold_module_in_state import HOLDER, delete_module
from harness.pinning.loader import PROBE, PROGRAM, LoaderLine, LoaderOrder, run_loader
from harness.pinning.loader_fixture import Loaders, order_with_target_build_id, site_parameter_at_entry
from harness.pinning.mutants import HONEST, LoaderMutant

STRESS = "pinpoint_stress"
TARGET = "pinpoint_target"

# The allowed outcomes of each operation, by the rules in docs/pinning.md; 0 is success. An outcome of `probe` begins
# with the loader's step.
ALLOWED: Mapping[str, frozenset[str]] = {
    "load": frozenset(("0", "EEXIST", "EBUSY")),
    "remove": frozenset(("0", "ENOENT", "EBUSY", "EAGAIN")),
    "read": frozenset(("0", "ENOENT", "ENODEV")),
    "probe": frozenset(
        (
            "0",
            *("open:ENOENT", "open:ENODEV", "read:ENODEV", "look:ENOENT", "look:ENODEV"),
            *("load:ESTALE", "reread:ENODEV"),
        )
    ),
}
# The time limit after the race, for the last processes and for a scan of kmemleak on a slow guest.
_AFTER_SECONDS = 300.0
_LEAKS = "/sys/kernel/debug/kmemleak"


@dataclass(frozen=True)
class StressResult:
    """The count of each outcome, and the state of the guest after the race.

    `unreleased_references` describes references that were not released, `leak_report` is the report of kmemleak; both
    are empty if all is well.
    """

    outcome_counts: Counter[tuple[str, str]]
    seconds: float
    unreleased_references: str = ""
    leak_report: str = ""
    allowed_outcomes: Mapping[str, frozenset[str]] = field(default_factory=lambda: ALLOWED)

    @property
    def operation_count(self) -> int:
        """The number of operations that were tried."""
        return self.outcome_counts.total()

    @property
    def attempted_loads_and_removals(self) -> int:
        """The number of loads and removals of the target that were tried."""
        return sum(times for (what, _), times in self.outcome_counts.items() if what in ("load", "remove"))

    @property
    def successful_loads_and_removals(self) -> int:
        """The number of loads and removals of the target that succeeded."""
        return self.outcome_counts["load", "0"] + self.outcome_counts["remove", "0"]

    @property
    def refused_by_second_read(self) -> int:
        """The number of loads that passed every check of the probe, and only the second read refused."""
        return self.outcome_counts["probe", "reread:ENODEV"]

    @property
    def problems(self) -> list[str]:
        """Outcomes that no rule allows, references or memory that were not released, or no race at all."""
        strange = [
            f"{what}: {outcome}, {times} times"
            for (what, outcome), times in sorted(self.outcome_counts.items())
            if outcome not in self.allowed_outcomes[what]
        ]
        idle = [
            f"no {what} ever succeeded"
            for what in ("load", "remove", "read", "probe")
            if not self.outcome_counts[what, "0"]
        ]
        return [*strange, *idle, *filter(None, (self.unreleased_references, self.leak_report))]

    def prove_no_problems(self) -> None:
        """Raise Missed for the first problem, with all outcomes."""
        if self.problems:
            table = "\n".join(
                f"{what} {outcome} {times}" for (what, outcome), times in sorted(self.outcome_counts.items())
            )
            raise Missed(f"{'; '.join(self.problems)}\n\n{table}")


def run_stress_race(loading: Loaders, changes: int, seconds: float) -> StressResult:
    """Race until `changes` loads and removals succeeded, or for `seconds`."""
    guest, began = loading.guest, time.monotonic()
    order = loading.mutant.break_order(_order(guest))
    image = guest.copy_program(HOLDER) if loading.mutant.races_with_non_module else guest.copy_module(TARGET)
    loader = [guest.copy_program(PROGRAM), *order.command_line_options(), guest.copy_module(PROBE), *order.parameters]
    guest.run_script(f"[ ! -e {_LEAKS} ] || echo clear >{_LEAKS}").check()
    result = guest.run(
        *(guest.copy_program(STRESS), str(changes), str(round(seconds)), image, TARGET, PROBE, *loader),
        deadline=guest.scaled_deadline(seconds + _AFTER_SECONDS),
    ).check()
    lines = [LoaderLine.parse(line) for line in result.stdout.splitlines()]
    with parsing_guest_text("a line of the loader"):
        outcomes = Counter({(line.step, line.subject): int(line.fields["times"]) for line in lines})
    if loading.mutant.holds_extra_pin:
        _hold_more(guest, order)
    return StressResult(outcomes, time.monotonic() - began, _left(guest), _leaks(guest))


def _order(guest: Guest) -> LoaderOrder:
    """An order for a precompiled probe on the entry of the target's leaf."""
    target = Target(guest, TARGET)
    leaf = target.elf.function("pinpoint_leaf")
    site = site_parameter_at_entry(target, leaf)
    return order_with_target_build_id(target, LoaderOrder(sections=[(TARGET, leaf.section)], parameters=[site]))


def _hold_more(guest: Guest, order: LoaderOrder) -> None:
    """Hold a reference after the race, for a mutant."""
    guest.run_script(f"[ -d /sys/module/{TARGET} ] || insmod {guest.copy_module(TARGET)}").check()
    run_loader(guest, replace(order, parameters=[*order.parameters, "keeps=1"]))


def _left(guest: Guest) -> str:
    """Remove the target, then the probe module if it is left. Returns the refusal; empty if both are removed."""
    refused = delete_module(guest, TARGET)
    gone = delete_module(guest, PROBE)
    if refused not in ("", "ENOENT"):
        delete_module(guest, TARGET)
        return f"{TARGET} is still referenced after the race: {refused}"
    return "" if gone in ("", "ENOENT") else f"{PROBE} is still referenced after the race: {gone}"


def _leaks(guest: Guest) -> str:
    """The report of kmemleak, if the kernel has it; two scans, because the first can report memory still in use."""
    script = f"[ ! -e {_LEAKS} ] || {{ echo scan >{_LEAKS}; echo scan >{_LEAKS}; cat {_LEAKS}; }}"
    return guest.run_script(script, guest.scaled_deadline(_AFTER_SECONDS)).check().stdout.strip()


_CPUS = 2
# A mutant is caught in any race, even a short one. With a mutant under which nothing succeeds, the race lasts for the
# whole time limit.
_FOR_MUTANTS, _FOR_MUTANTS_SECONDS = 4, 2.0
# A load takes a debugging kernel under emulation a few tenths of a second at most.
_SECONDS_A_CHANGE = 0.5
# The race ends before, when each operation has succeeded once. On a busy host (load 8) none of 83 probes was loaded
# within the life of one instance in 80 s.
_SECONDS = 300.0


@dataclass(frozen=True)
class StressRuns:
    """Races in one cell: in the row's guest if it has two virtual CPUs, else in a fresh guest that has two.

    Where the kernel or the machine has only one CPU, the race is in the row's guest.
    """

    guest: Guest
    open_fresh_guest: Callable[..., AbstractContextManager[Guest]]
    mutant: LoaderMutant
    changes_wanted: int

    def race(self) -> StressResult:
        """Race until `changes_wanted` loads and removals succeeded, or only a few in a mutant's cell."""
        if self.mutant is not HONEST:
            return run_stress_race(Loaders(self.guest, self.mutant), _FOR_MUTANTS, _FOR_MUTANTS_SECONDS)
        image = self.guest.image
        if image.uses_one_cpu or image.recipe.machine.cpus >= _CPUS:
            return self._race(self.guest, self.changes_wanted)
        with self.open_fresh_guest(cpus=_CPUS) as guest:
            return self._race(guest, self.changes_wanted)

    def _race(self, guest: Guest, changes: int) -> StressResult:
        return run_stress_race(Loaders(guest, self.mutant), changes, _SECONDS + changes * _SECONDS_A_CHANGE)
