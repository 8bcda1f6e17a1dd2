"""Schedules as cases use them: which ones there are for this kernel, each played, all held against the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from harness.pinning.loader_fixture import Loaders
from harness.pinning.mutants import HONEST
from harness.pinning.protocol.enumerate import Enumerated, covering, enumerated
from harness.pinning.protocol.model import Rule
from harness.pinning.protocol.play import Play, play
from harness.pinning.protocol.stage import GuestStage
from harness.pinning.protocol.steps import Schedule, parse

# A life of the target at the same addresses as the one before it. Where modules share a region with all of vmalloc
# (parisc) it stands there again only while the probe module is not loaded.
_REUSE = (
    "open read look remove imitate load validate",
    "open read look remove reload load validate register return reread",
    "open read look load remove reload validate register return reread",
    "open read look load validate register return remove reload reread",
)
_REUSE_PINNED = tuple(each.replace("remove", "force") for each in _REUSE)
# So many schedules are drawn, each of so many steps at most: a few that a model of the other rule does not pass
# (tests/test_protocol_orders.py), or, where all are asked for, many.
FEW, FEW_STEPS = 4, 20
_MANY, _MANY_STEPS = 100, 25


@dataclass(frozen=True)
class Played:
    """Schedules that were played."""

    plays: tuple[Play, ...]

    @property
    def disagreed(self) -> list[Play]:
        """Those of which the model was wrong."""
        return [each for each in self.plays if not each.agrees]

    @property
    def reused(self) -> int:
        """In how many a new life of the target stood where the old one had."""
        return sum(each.reused for each in self.plays)

    @property
    def seconds_each(self) -> float:
        """From the first step to the last, on average."""
        return sum(each.seconds for each in self.plays) / len(self.plays)

    def prove(self) -> None:
        """Raise Missed with the line of the first schedule of which the model was wrong."""
        for each in self.plays:
            each.prove()


@dataclass(frozen=True)
class Schedules:
    """Schedules in one guest. `everything` for all of them, `lines` for those given with --schedule alone."""

    loading: Loaders
    everything: bool = False
    lines: Sequence[str] = field(default_factory=tuple)

    @property
    def rule(self) -> Rule:
        """What this kernel does otherwise than others: the recipe's traits, proved when the guest booted."""
        traits = self.loading.guest.traits
        return Rule(pins=traits.section_fd_pins != self.loading.mutant.other_rule, shares=traits.shared_loads)

    def enumerated(self, interventions: int) -> Enumerated:
        """Every order of a loader's life with at most so many interventions."""
        return enumerated(self.rule, interventions)

    def chosen(self) -> tuple[Schedule, ...]:
        """What is to be played: the lines given, everything, or a few in which every situation occurs."""
        if self.lines:
            return tuple(parse(line) for line in self.lines)
        if self.everything:
            return self.enumerated(2).schedules
        reuse = _REUSE_PINNED if self.rule.pins else _REUSE
        return tuple(dict.fromkeys((*map(parse, reuse), *covering(self.rule, self.enumerated(1).schedules))))

    def play(self, line: str) -> Play:
        """One schedule, by its line."""
        return self._play(parse(line))

    def run(self, schedules: Iterable[Schedule]) -> Played:
        """Play them in order; in a mutant's cell up to the first of which the model was wrong."""
        plays: list[Play] = []
        for schedule in schedules:
            plays.append(self._play(schedule))
            if self.loading.mutant is not HONEST and not plays[-1].agrees:
                break
        return Played(tuple(plays))

    def explored(self) -> Played:
        """Longer ones, drawn from the model: many others each time where everything is asked for, else a few.

        Raises Missed with the shortest line of which the model is wrong; in a mutant's cell with the first found.
        """
        # Only here, for hypothesis costs every process of a run a second to import.
        from harness.pinning.protocol.hypothesis_machine import explore

        plays = explore(
            lambda: GuestStage(self.loading),
            self.rule,
            schedules=_MANY if self.everything else FEW,
            steps=_MANY_STEPS if self.everything else FEW_STEPS,
            shrinks=self.loading.mutant is HONEST,
            varied=self.everything,
        )
        return Played(tuple(plays))

    def _play(self, schedule: Schedule) -> Play:
        with GuestStage(self.loading) as stage:
            return play(stage, self.rule, schedule)
