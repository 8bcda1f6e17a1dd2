"""Loaders and validators broken on purpose: each shows the failure that one step of the protocol prevents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from harness.pinning.loader import LoaderOrder

# The parameter with which the probe keeps references to its targets until it is unloaded.
KEEPS = "keeps=1"
_ONE_OF_MANY = 2


@dataclass(frozen=True)
class LoaderMutant:
    """What a broken loader or validator does instead.

    - `loader` is the value of the loader's option -x (probes/loader/loader.c).
    - `probe` is the check that the probe does wrong (probes/pinned/targets.c).
    - `misses` aims one instruction too far.
    - `lets_go` releases a pin before removal is tried; `holds_more` holds another one in addition.
    - `probes_again` registers a probe again after its target is reloaded.
    - `loads_anyway` replaces every order by one that no kernel refuses, `one_of_many` only the second order of a case.
    - `keeps_nothing` drops the probe's parameter keeps=1.
    - `one_base` takes the first section of each target as the base of all offsets (probes/precompiled/sites.c).
    - `with_symbols` is a probe with the symbols of its targets (probes/precompiled/build_table.h).
    - `forces` removes by force; `asks` removes without force where force is expected.
    - `checks` looks a handle up where it should be followed unchecked.
    - `other_call` loads with the other of the two system calls.
    - `other_rule` models a kernel with the other pin rule.
    - `strange_image` races with a file that is not a module.
    """

    loader: str = ""
    probe: str = ""
    misses: bool = False
    lets_go: bool = False
    holds_more: bool = False
    probes_again: bool = False
    loads_anyway: bool = False
    one_of_many: bool = False
    keeps_nothing: bool = False
    one_base: bool = False
    with_symbols: bool = False
    forces: bool = False
    asks: bool = False
    checks: bool = False
    other_call: bool = False
    other_rule: bool = False
    strange_image: bool = False

    def break_order(self, order: LoaderOrder, number: int = 1) -> LoaderOrder:
        """The same order for a loader and a probe with this defect; `number` counts the orders of a case, from 1."""
        if self.loads_anyway or (self.one_of_many and number == _ONE_OF_MANY):
            return LoaderOrder()
        given = [each for each in order.parameters if not (self.keeps_nothing and each == KEEPS)]
        defects = {f"mutant={self.probe}": self.probe, "mutant_one_base=1": self.one_base}
        parameters = [*given, *(defect for defect, present in defects.items() if present)]
        in_memory = order.in_memory != self.other_call
        return replace(order, mutant=self.loader or order.mutant, parameters=parameters, in_memory=in_memory)


HONEST = LoaderMutant()

MUTANTS: Mapping[str, LoaderMutant] = {
    "closes-early": LoaderMutant(loader="closes-early"),
    "skips-re-read": LoaderMutant(loader="skips-re-read"),
    "handle-unchecked": LoaderMutant(probe="handle-unchecked"),
    "accompanied": LoaderMutant(loader="accompanied"),
    "no-name": LoaderMutant(probe="no-name"),
    "no-base": LoaderMutant(probe="no-base"),
    "no-build-id": LoaderMutant(probe="no-build-id"),
    "registers-outside": LoaderMutant(probe="anywhere"),
    "swaps-handles": LoaderMutant(loader="swaps-handles"),
    "wrong-errno": LoaderMutant(loader="wrong-errno"),
    "betrayed": LoaderMutant(loader="betrayed"),
    "one-instruction-off": LoaderMutant(misses=True),
    "lets-go": LoaderMutant(lets_go=True),
    "holds-more": LoaderMutant(holds_more=True),
    "probes-again": LoaderMutant(probes_again=True),
    "loads-anyway": LoaderMutant(loads_anyway=True),
    "one-of-many": LoaderMutant(one_of_many=True),
    "drops-keeps": LoaderMutant(keeps_nothing=True),
    "one-base": LoaderMutant(one_base=True),
    "with-symbols": LoaderMutant(with_symbols=True),
    "forces": LoaderMutant(forces=True),
    "only-asks": LoaderMutant(asks=True),
    "checks-handle": LoaderMutant(checks=True),
    "other-call": LoaderMutant(other_call=True),
    "other-rule": LoaderMutant(other_rule=True),
    "strange-image": LoaderMutant(strange_image=True),
}


def named(name: str) -> LoaderMutant:
    """The mutant with this name; HONEST for a cell that has none, or one that breaks a probe (harness/landing)."""
    return MUTANTS.get(name, HONEST)
