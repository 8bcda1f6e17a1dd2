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

    - `loader_defect` is the value of the loader's option -x (probes/loader/loader.c).
    - `probe_defect` is the check that the probe does wrong (probes/pinned/references_from_handles.c).
    - `aims_past_site` aims one instruction too far.
    - `releases_pin_early` releases a pin before removal is tried; `holds_extra_pin` holds another one in addition.
    - `probes_reloaded_target` registers a probe again after its target is reloaded.
    - `replaces_every_order` replaces every order by one that no kernel refuses, `replaces_second_order` only the second
      order of a case.
    - `drops_keeps_parameter` drops the probe's parameter keeps=1.
    - `uses_one_base` takes the first section of each target as the base of all offsets (probes/precompiled/sites.c).
    - `embeds_target_symbols` is a probe with the symbols of its targets (probes/precompiled/build_table.h).
    - `removes_by_force` removes by force; `removes_without_force` removes without force where force is expected.
    - `checks_stale_handle` looks a handle up where it should be followed unchecked.
    - `loads_with_other_call` loads with the other of the two system calls.
    - `models_other_rule` models a kernel with the other pin rule.
    - `races_with_non_module` races with a file that is not a module.
    - `uses_careful_loader` runs a foreign loader that does everything right where one that does something wrong is
      expected.
    """

    loader_defect: str = ""
    probe_defect: str = ""
    aims_past_site: bool = False
    releases_pin_early: bool = False
    holds_extra_pin: bool = False
    probes_reloaded_target: bool = False
    replaces_every_order: bool = False
    replaces_second_order: bool = False
    drops_keeps_parameter: bool = False
    uses_one_base: bool = False
    embeds_target_symbols: bool = False
    removes_by_force: bool = False
    removes_without_force: bool = False
    checks_stale_handle: bool = False
    loads_with_other_call: bool = False
    models_other_rule: bool = False
    races_with_non_module: bool = False
    uses_careful_loader: bool = False

    @property
    def breaks_loader(self) -> bool:
        """True if the defect is in our loader itself, so that it cannot be in force with a foreign one."""
        return bool(self.loader_defect or self.loads_with_other_call)

    def break_order(self, order: LoaderOrder, number: int = 1) -> LoaderOrder:
        """The same order for a loader and a probe with this defect; `number` counts the orders of a case, from 1."""
        if self.replaces_every_order or (self.replaces_second_order and number == _ONE_OF_MANY):
            return LoaderOrder()
        given = [each for each in order.parameters if not (self.drops_keeps_parameter and each == KEEPS)]
        defects = {f"mutant={self.probe_defect}": self.probe_defect, "mutant_one_base=1": self.uses_one_base}
        parameters = [*given, *(defect for defect, present in defects.items() if present)]
        in_memory = order.load_from_memory != self.loads_with_other_call
        return replace(
            order, mutant=self.loader_defect or order.mutant, parameters=parameters, load_from_memory=in_memory
        )


HONEST = LoaderMutant()

MUTANTS: Mapping[str, LoaderMutant] = {
    "closes-early": LoaderMutant(loader_defect="closes-early"),
    "skips-re-read": LoaderMutant(loader_defect="skips-re-read"),
    "handle-unchecked": LoaderMutant(probe_defect="handle-unchecked"),
    "accompanied": LoaderMutant(loader_defect="accompanied"),
    "no-name": LoaderMutant(probe_defect="no-name"),
    "no-base": LoaderMutant(probe_defect="no-base"),
    "no-build-id": LoaderMutant(probe_defect="no-build-id"),
    "registers-outside": LoaderMutant(probe_defect="anywhere"),
    "swaps-handles": LoaderMutant(loader_defect="swaps-handles"),
    "wrong-errno": LoaderMutant(loader_defect="wrong-errno"),
    "betrayed": LoaderMutant(loader_defect="betrayed"),
    "one-instruction-off": LoaderMutant(aims_past_site=True),
    "lets-go": LoaderMutant(releases_pin_early=True),
    "holds-more": LoaderMutant(holds_extra_pin=True),
    "probes-again": LoaderMutant(probes_reloaded_target=True),
    "loads-anyway": LoaderMutant(replaces_every_order=True),
    "one-of-many": LoaderMutant(replaces_second_order=True),
    "drops-keeps": LoaderMutant(drops_keeps_parameter=True),
    "one-base": LoaderMutant(uses_one_base=True),
    "with-symbols": LoaderMutant(embeds_target_symbols=True),
    "forces": LoaderMutant(removes_by_force=True),
    "only-asks": LoaderMutant(removes_without_force=True),
    "checks-handle": LoaderMutant(checks_stale_handle=True),
    "other-call": LoaderMutant(loads_with_other_call=True),
    "other-rule": LoaderMutant(models_other_rule=True),
    "strange-image": LoaderMutant(races_with_non_module=True),
    "careful-loader": LoaderMutant(uses_careful_loader=True),
}


def mutant_or_honest(name: str) -> LoaderMutant:
    """The mutant with this name; HONEST for a cell that has none, or one that breaks a probe (harness/landing)."""
    return MUTANTS.get(name, HONEST)
