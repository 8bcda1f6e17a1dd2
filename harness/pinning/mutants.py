"""Loaders and validators broken on purpose: each shows the failure that one step of the protocol prevents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from harness.pinning.loader import LoaderOrder


@dataclass(frozen=True)
class LoaderMutant:
    """What a broken loader or validator does instead.

    - `loader` is the value of the loader's option -x (probes/loader/loader.c).
    - `probe` is the check that the probe does wrong (probes/pinned/targets.c).
    - `misses` aims one instruction too far.
    - `lets_go` releases a pin before removal is tried; `holds_more` holds another one in addition.
    - `probes_again` registers a probe again after its target is reloaded.
    - `loads_anyway` replaces the order by one that no kernel refuses.
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
    forces: bool = False
    asks: bool = False
    checks: bool = False
    other_call: bool = False
    other_rule: bool = False
    strange_image: bool = False

    def break_order(self, order: LoaderOrder) -> LoaderOrder:
        """The same order for a loader and a probe with this defect."""
        if self.loads_anyway:
            return LoaderOrder()
        parameters = [*order.parameters, *([f"mutant={self.probe}"] if self.probe else [])]
        in_memory = order.in_memory != self.other_call
        return replace(order, mutant=self.loader or order.mutant, parameters=parameters, in_memory=in_memory)


HONEST = LoaderMutant()

MUTANTS: Mapping[str, LoaderMutant] = {
    "closes-early": LoaderMutant(loader="closes-early"),
    "skips-re-read": LoaderMutant(loader="skips-re-read"),
    "handle-unchecked": LoaderMutant(probe="handle-unchecked"),
    "accompanied": LoaderMutant(loader="accompanied"),
    "trusts-address": LoaderMutant(probe="trusts-address"),
    "one-instruction-off": LoaderMutant(misses=True),
    "lets-go": LoaderMutant(lets_go=True),
    "holds-more": LoaderMutant(holds_more=True),
    "probes-again": LoaderMutant(probes_again=True),
    "loads-anyway": LoaderMutant(loads_anyway=True),
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
