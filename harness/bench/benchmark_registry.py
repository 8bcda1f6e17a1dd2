"""All figures, in the order they are measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from harness.bench import added_case_cost, boots, console_parser_scaling, matrices, noop_build, thaws
from harness.bench.context import BenchContext
from harness.bench.interleave import Measure
from harness.bench.measured_ratio_and_goal import FigureDefinition, UnavailableSide
from harness.core.errors import UsageError
from harness.images.vm_recipe import Recipe

Sides = Mapping[str, Measure | UnavailableSide]


@dataclass(frozen=True)
class Group:
    """Figures whose sides are measured together, on `vm`; an empty `vm` means all selected VMs."""

    figure_definitions: tuple[FigureDefinition, ...]
    open_sides: Callable[[BenchContext, Sequence[str]], AbstractContextManager[Sides]]
    vm: str = ""


_X86_64, _PARISC = "x86_64-debian", "parisc"
GROUPS = (
    Group(boots.PAIRS, boots.open_sides, boots.VM),
    Group(
        (thaws.figure_definition("thaw_x86_64", _X86_64, "at most 0.15"),), partial(thaws.open_sides, _X86_64), _X86_64
    ),
    Group(
        (thaws.figure_definition("thaw_parisc", _PARISC, "at most 0.35"),), partial(thaws.open_sides, _PARISC), _PARISC
    ),
    Group(added_case_cost.PAIRS, added_case_cost.open_sides, added_case_cost.VM),
    Group(noop_build.PAIRS, noop_build.open_sides),
    Group(console_parser_scaling.PAIRS, console_parser_scaling.open_sides),
    Group((matrices.LANDINGS,), matrices.open_landing_matrix_sides),
    Group((matrices.WHOLE,), matrices.open_whole_matrix_sides),
)


def choose_groups(recipes: Sequence[Recipe], names: Sequence[str]) -> list[Group]:
    """Return the groups of figures that these VMs have: the named figures, or all if there are no names.

    Raises UsageError for an unknown figure, and when nothing is left to measure.
    """
    known = [pair.name for group in GROUPS for pair in group.figure_definitions]
    for name in names:
        if name not in known:
            raise UsageError(f"no figure named {name!r}", mend=f"one of: {', '.join(known)}")
    vms = {recipe.name for recipe in recipes}
    found = []
    for group in GROUPS:
        pairs = tuple(pair for pair in group.figure_definitions if not names or pair.name in names)
        if pairs and (not group.vm or group.vm in vms):
            found.append(Group(pairs, group.open_sides, group.vm))
    if not found:
        raise UsageError(f"no such figure of {', '.join(sorted(vms))}", mend="see docs/performance.md for its VM")
    return found
