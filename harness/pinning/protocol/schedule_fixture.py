"""Selects the schedules for a kernel, plays them, and compares them with the model: the fixture that cases use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from harness.landing.checks.probe_flags import optimization_off
from harness.pinning.loader_fixture import Loaders
from harness.pinning.mutants import HONEST
from harness.pinning.protocol.enumerate import (
    DefinedAndUndefinedSchedules,
    enumerate_schedules,
    select_covering_schedules,
)
from harness.pinning.protocol.model import KernelRules
from harness.pinning.protocol.play import PlayedSchedule, play_schedule
from harness.pinning.protocol.stage import GuestStage
from harness.pinning.protocol.steps import Schedule, parse_schedule

# Schedules in which the target is loaded again at the same addresses. Where modules share a region with all of vmalloc
# (parisc), it has the same addresses only while the probe module is not loaded.
_REUSE = (
    "open read look remove imitate load validate",
    "open read look remove reload load validate register return reread",
    "open read look load remove reload validate register return reread",
    "open read look load validate register return remove reload reread",
)
_REUSE_PINNED = tuple(each.replace("remove", "force") for each in _REUSE)
# The number of schedules to draw, and the largest number of steps in each. The few are enough to catch a model with the
# other rule (tests/test_protocol_orders.py); the many are drawn if `everything` is set.
FEW, FEW_STEPS = 4, 20
_MANY, _MANY_STEPS = 100, 25


@dataclass(frozen=True)
class PlayedSchedules:
    """Schedules that were played."""

    plays: tuple[PlayedSchedule, ...]

    @property
    def disagreed(self) -> list[PlayedSchedule]:
        """The schedules for which the model was wrong."""
        return [each for each in self.plays if not each.agrees]

    @property
    def place_reused_count(self) -> int:
        """The number of schedules in which an instance of the target had the same place as the one before."""
        return sum(each.place_reused for each in self.plays)

    @property
    def seconds_each(self) -> float:
        """The average time from the first step of a schedule to its last, in seconds."""
        return sum(each.seconds for each in self.plays) / len(self.plays)

    def prove(self) -> None:
        """Raise Missed with the line of the first schedule for which the model was wrong."""
        for each in self.plays:
            each.prove()


@dataclass(frozen=True)
class Schedules:
    """Schedules in one guest, played with the kernel's optimization of kprobes off.

    A stage removes probe and target within a few ticks. If the probe was a jump, kernels with the defect in
    kill_optimized_kprobe() (docs/findings.md) refuse every later probe at that address, also those of later cells.

    `is_exhaustive` selects all schedules. `given_lines` are the schedules given with --schedule; if there are any, only
    they are played.
    """

    loaders: Loaders
    is_exhaustive: bool = False
    given_lines: Sequence[str] = field(default_factory=tuple)

    @property
    def kernel_rules(self) -> KernelRules:
        """The rules of this kernel, from the recipe's traits, which were proved when the guest booted."""
        traits = self.loaders.guest.traits
        return KernelRules(
            open_file_pins_target=traits.section_fd_pins != self.loaders.mutant.models_other_rule,
            shares_load_result=traits.shared_loads,
        )

    def enumerate_schedules(self, interventions: int) -> DefinedAndUndefinedSchedules:
        """Every order of a loader's steps with at most this number of interventions."""
        return enumerate_schedules(self.kernel_rules, interventions)

    def schedules_to_play(self) -> tuple[Schedule, ...]:
        """The schedules to play: the given lines, or everything, or a few in which every situation occurs."""
        if self.given_lines:
            return tuple(parse_schedule(line) for line in self.given_lines)
        if self.is_exhaustive:
            return self.enumerate_schedules(2).schedules
        reuse = _REUSE_PINNED if self.kernel_rules.open_file_pins_target else _REUSE
        return tuple(
            dict.fromkeys(
                (
                    *map(parse_schedule, reuse),
                    *select_covering_schedules(self.kernel_rules, self.enumerate_schedules(1).schedules),
                )
            )
        )

    def play_line(self, line: str) -> PlayedSchedule:
        """Play one schedule, given as its line."""
        with optimization_off(self.loaders.guest):
            return self._play(parse_schedule(line))

    def play_each_schedule(self, schedules: Iterable[Schedule]) -> PlayedSchedules:
        """Play schedules in order; a mutant's cell stops after the first for which the model is wrong."""
        plays: list[PlayedSchedule] = []
        with optimization_off(self.loaders.guest):
            for schedule in schedules:
                plays.append(self._play(schedule))
                if self.loaders.mutant is not HONEST and not plays[-1].agrees:
                    break
        return PlayedSchedules(tuple(plays))

    def explore(self) -> PlayedSchedules:
        """Play longer schedules that are drawn from the model: a few, or with `is_exhaustive` many and new ones each
        time.

        Raises Missed with the shortest line for which the model is wrong, or in a mutant's cell with the first found.
        """
        # Imported here, because importing hypothesis takes every process of a run a second.
        from harness.pinning.protocol.hypothesis_machine import explore_schedules

        with optimization_off(self.loaders.guest):
            plays = explore_schedules(
                lambda: GuestStage(self.loaders),
                self.kernel_rules,
                schedules=_MANY if self.is_exhaustive else FEW,
                steps=_MANY_STEPS if self.is_exhaustive else FEW_STEPS,
                shrinks=self.loaders.mutant is HONEST,
                varied=self.is_exhaustive,
            )
        return PlayedSchedules(tuple(plays))

    def _play(self, schedule: Schedule) -> PlayedSchedule:
        with GuestStage(self.loaders) as stage:
            return play_schedule(stage, self.kernel_rules, schedule)
