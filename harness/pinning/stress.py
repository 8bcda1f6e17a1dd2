"""Races without gates: a target loaded, removed, read and probed all at once, and what is left of it afterwards."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from harness.guest.guest import Guest
from harness.guest.result import readable
from harness.landing.landing import Missed
from harness.landing.target import Target
from harness.pinning.loader import PROBE, PROGRAM, LoaderLine, Order, run
from harness.pinning.loader_fixture import Loaders, for_build
from harness.pinning.module_states import HOLDER, delete
from harness.pinning.mutants import HONEST, LoaderMutant

STRESS = "pinpoint_stress"
TARGET = "pinpoint_target"

# What may come of each, by the rules that docs/pinning.md gives the places of; 0 is success. Of a probe the loader's
# step comes first.
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
# How a loader ends that came to its load.
_TO_THE_LOAD = ("0", "load:", "reread:")
# Once the race is over: how long the last processes may take, and a scan of kmemleak on a slow guest.
_AFTER_SECONDS = 300.0
_LEAKS = "/sys/kernel/debug/kmemleak"


@dataclass(frozen=True)
class Stressed:
    """How often there was which outcome, and what the guest showed when all was over."""

    outcomes: Counter[tuple[str, str]]
    seconds: float
    left: str = ""
    leaks: str = ""
    allowed: Mapping[str, frozenset[str]] = field(default_factory=lambda: ALLOWED)

    @property
    def operations(self) -> int:
        """All that was tried."""
        return self.outcomes.total()

    @property
    def attempts(self) -> int:
        """Loads and removals of the target that were tried."""
        return sum(times for (what, _), times in self.outcomes.items() if what in ("load", "remove"))

    @property
    def changes(self) -> int:
        """Those that succeeded."""
        return self.outcomes["load", "0"] + self.outcomes["remove", "0"]

    @property
    def complaints(self) -> list[str]:
        """What must not be: outcomes that no rule allows, references or memory not given back; or no race at all."""
        strange = [
            f"{what}: {outcome}, {times} times"
            for (what, outcome), times in sorted(self.outcomes.items())
            if outcome not in self.allowed[what]
        ]
        idle = [f"no {what} ever succeeded" for what in ("load", "remove", "read") if not self.outcomes[what, "0"]]
        return [*strange, *idle, *self._unprobed, *filter(None, (self.left, self.leaks))]

    @property
    def _unprobed(self) -> list[str]:
        """A loader seldom wins against a remover that never rests, but it must come as far as its load."""
        came = any(
            what == "probe" and outcome.startswith(_TO_THE_LOAD)
            for (what, outcome), times in self.outcomes.items()
            if times
        )
        return [] if came else ["no probe ever came to its load"]

    def prove(self) -> None:
        """Raise Missed for the first complaint, with all outcomes."""
        if self.complaints:
            table = "\n".join(f"{what} {outcome} {times}" for (what, outcome), times in sorted(self.outcomes.items()))
            raise Missed(f"{'; '.join(self.complaints)}\n\n{table}")


def stress(loading: Loaders, changes: int, seconds: float) -> Stressed:
    """Race until so many loads and removals succeeded, or for so long."""
    guest, began = loading.guest, time.monotonic()
    order = _order(guest)
    image = guest.program(HOLDER) if loading.mutant.strange_image else guest.ship(TARGET)
    loader = [guest.program(PROGRAM), *order.words(), guest.ship(PROBE), *order.parameters]
    guest.script(f"[ ! -e {_LEAKS} ] || echo clear >{_LEAKS}").check()
    told = guest.run(
        *(guest.program(STRESS), str(changes), str(round(seconds)), image, TARGET, PROBE, *loader),
        deadline=guest.budget(seconds + _AFTER_SECONDS),
    ).check()
    lines = [LoaderLine.parsed(line) for line in told.stdout.splitlines()]
    with readable("a line of the loader"):
        outcomes = Counter({(said.step, said.subject): int(said.fields["times"]) for said in lines})
    if loading.mutant.holds_more:
        _hold_more(guest, order)
    return Stressed(outcomes, time.monotonic() - began, _left(guest), _leaks(guest))


def _order(guest: Guest) -> Order:
    """A probe at the entry of the target's leaf, as any precompiled one."""
    target = Target(guest, TARGET)
    leaf = target.elf.function("pinpoint_leaf")
    site = f"site=0+{target.elf.place(leaf):#x}"
    return for_build(target, Order(sections=[(TARGET, leaf.section)], parameters=[site]))


def _hold_more(guest: Guest, order: Order) -> None:
    """For a mutant: a reference that is there when all is over."""
    guest.script(f"[ -d /sys/module/{TARGET} ] || insmod {guest.ship(TARGET)}").check()
    run(guest, replace(order, parameters=[*order.parameters, "keeps=1"]))


def _left(guest: Guest) -> str:
    """The target's refusal to go when all is over, empty when it goes; a probe module that is left goes after it."""
    refused = delete(guest, TARGET)
    gone = delete(guest, PROBE)
    if refused not in ("", "ENOENT"):
        delete(guest, TARGET)
        return f"{TARGET} is referenced when all is over: {refused}"
    return "" if gone in ("", "ENOENT") else f"{PROBE} is referenced when all is over: {gone}"


def _leaks(guest: Guest) -> str:
    """What kmemleak suspects, where the kernel has it: looked for twice, for a first scan meets what is under way."""
    script = f"[ ! -e {_LEAKS} ] || {{ echo scan >{_LEAKS}; echo scan >{_LEAKS}; cat {_LEAKS}; }}"
    return guest.script(script, guest.budget(_AFTER_SECONDS)).check().stdout.strip()


_CPUS = 2
# A mutant shows in any race, however short; one with which nothing succeeds would last as long as it may.
_FOR_MUTANTS, _FOR_MUTANTS_SECONDS = 4, 2.0
# A load costs a debugging kernel under emulation some tenths of a second at worst.
_SECONDS_A_CHANGE = 0.5
_SECONDS = 60.0


@dataclass(frozen=True)
class StressRuns:
    """Races in one cell: in the row's guest where that has two virtual CPUs, else in one of its own that has."""

    guest: Guest
    fresh: Callable[..., AbstractContextManager[Guest]]
    mutant: LoaderMutant
    changes: int

    def race(self) -> Stressed:
        """Race until as many loads and removals succeeded as were asked for, or a few in a mutant's cell."""
        if self.mutant is not HONEST:
            return stress(Loaders(self.guest, self.mutant), _FOR_MUTANTS, _FOR_MUTANTS_SECONDS)
        image = self.guest.image
        if image.recipe.machine.cpus >= _CPUS or "CONFIG_SMP" not in image.config:
            return self._race(self.guest, self.changes)
        with self.fresh(cpus=_CPUS) as guest:
            return self._race(guest, self.changes)

    def _race(self, guest: Guest, changes: int) -> Stressed:
        return stress(Loaders(guest, self.mutant), changes, _SECONDS + changes * _SECONDS_A_CHANGE)
