"""A race without gates as cases use it: on which guest, and how long."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from harness.guest.guest import Guest
from harness.pinning.loading import Loading
from harness.pinning.mutants import HONEST, Mutant
from harness.pinning.stress import Stressed, stress

_CPUS = 2
# A mutant shows in any race, however short; one with which nothing succeeds would last as long as it may.
_FOR_MUTANTS, _FOR_MUTANTS_SECONDS = 4, 2.0
# A load costs a debugging kernel under emulation some tenths of a second at worst.
_SECONDS_A_CHANGE = 0.5
_SECONDS = 60.0


@dataclass(frozen=True)
class Stressing:
    """Races in one cell: in the row's guest where that has two virtual CPUs, else in one of its own that has."""

    guest: Guest
    fresh: Callable[..., AbstractContextManager[Guest]]
    mutant: Mutant
    changes: int

    def race(self) -> Stressed:
        """Race until as many loads and removals succeeded as were asked for, or a few in a mutant's cell."""
        if self.mutant is not HONEST:
            return stress(Loading(self.guest, self.mutant), _FOR_MUTANTS, _FOR_MUTANTS_SECONDS)
        image = self.guest.image
        if image.recipe.machine.cpus >= _CPUS or "CONFIG_SMP" not in image.config:
            return self._race(self.guest, self.changes)
        with self.fresh(cpus=_CPUS) as guest:
            return self._race(guest, self.changes)

    def _race(self, guest: Guest, changes: int) -> Stressed:
        return stress(Loading(guest, self.mutant), changes, _SECONDS + changes * _SECONDS_A_CHANGE)
