"""Which cells exist: each case on each selected VM, and the case's mutants there."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import pytest

from harness.core import paths
from harness.core.own_tree import own_tree_option
from harness.images.vm_recipe import Recipe, kernel_options_of_this_run
from harness.landing import mutants as landing
from harness.landing.sweep.sweep_plan import Depth
from harness.landing.verify import mutants as verify
from harness.matrix.upstream import mutants as upstream
from harness.pinning import mutants as pinning
from harness.report.record import CellKey
from harness.userspace import mutants as userspace

MUTANTS = frozenset((*landing.MUTANTS, *pinning.MUTANTS, *verify.MUTANTS, *userspace.MUTANTS, *upstream.MUTANTS))
MARKERS = (
    "requires(trait, ...): skip the case on a VM whose recipe lacks one of these traits",
    "mutants(name, ..., deep=(name, ...)): run the case once more per mutant; it must raise Missed for each. Those of "
    "`deep` are marked `deep`",
    "sweep: the case takes minutes; leave it out with `-m 'not sweep'`",
    "crash_triggers: the case kills guests, or is slow; it runs only with `--crash-triggers all`",
    "deep: the case is slow; it runs with `--deep`, with more than a sample, or when it is named",
    "full: the case takes minutes, and a cheaper one checks most of it; it runs with `--full`, or when it is named",
    "own_loader(reason): with `--loader` the case is skipped, because only Pinpoint's own loader can run it",
)
# The fixtures of the cases that load a probe through a loader.
_LOADER_FIXTURES = frozenset(("probe_loaders", "probe_loaders_in", "schedules", "stress_runs"))


@dataclass(frozen=True)
class CellId:
    """A case on a VM, honest or with a mutant; `item_name` is pytest's name of it in `file`, which `-k` matches.

    `loader` is the run's foreign loader, empty for ours.
    """

    case: str
    vm: str
    mutant: str
    item_name: str
    file: str = ""
    loader: str = ""

    @property
    def key(self) -> CellKey:
        """The key of this cell in its run."""
        return CellKey(self.file, self.case, self.vm, self.mutant)

    @property
    def replay(self) -> str:
        """The command that runs this cell again."""
        loader = f" --loader {shlex.quote(self.loader)}" if self.loader else ""
        options = f"{own_tree_option()}{kernel_options_of_this_run()}{loader}"
        return f"{paths.PROGRAM} run --vm {self.vm}{options} -k '{self.item_name}'"


def parametrize_by_vm_and_mutant(metafunc: pytest.Metafunc, vms: Sequence[str]) -> None:
    """Parametrize a case that uses the `vm` fixture: for each VM one cell, and one more for each of its mutants."""
    if "vm" not in metafunc.fixturenames:
        return
    if "mutant" not in metafunc.fixturenames:
        metafunc.parametrize("vm", vms)
        return
    marker = metafunc.definition.get_closest_marker("mutants")
    default: Sequence[str] = marker.args if marker else ()
    deep: Sequence[str] = marker.kwargs.get("deep", ()) if marker else ()
    for name in (*default, *deep):
        if name not in MUTANTS:
            known = ", ".join(sorted(MUTANTS))
            raise pytest.UsageError(f"{metafunc.definition.nodeid}: no mutant {name!r}; one of {known}")
    # Mutants come first, because an honest cell passes only if its mutants were caught on the same VM.
    cells = [
        pytest.param(vm, mutant, id=_label(vm, mutant), marks=[pytest.mark.deep] if mutant in deep else [])
        for vm in vms
        for mutant in (*default, *deep, "")
    ]
    metafunc.parametrize(("vm", "mutant"), cells)


def _label(vm: str, mutant: str) -> str:
    return f"{vm}-mutant:{mutant}" if mutant else vm


def cell_of(item: pytest.Item) -> CellId | None:
    """Return the cell of an item, None for the harness's own tests."""
    callspec = getattr(item, "callspec", None)
    if callspec is None or "vm" not in callspec.params:
        return None
    vm, mutant = callspec.params["vm"], callspec.params.get("mutant", "")
    function, _, label = item.name.removesuffix("]").partition("[")
    others = [part for part in (label.replace(_label(vm, mutant), "", 1).strip("-"),) if part]
    case = "".join((function, *(f"[{part}]" for part in others)))
    file = paths.case_name(item.path, item.config.rootpath)
    return CellId(case, vm, mutant, item.name, file, getattr(item.config.option, "loader", None) or "")


def vm_of(item: pytest.Item) -> str:
    """Return the VM of an item's cell, empty for the harness's own tests."""
    cell = cell_of(item)
    return cell.vm if cell else ""


def missing_trait(item: pytest.Item, recipe: Recipe) -> str:
    """Return the first trait that the case requires and the recipe lacks; empty when the recipe has all."""
    for marker in item.iter_markers("requires"):
        for trait in marker.args:
            if not hasattr(recipe.traits, trait):
                raise pytest.UsageError(f"{item.nodeid}: no trait named {trait!r}; see harness/images/vm_recipe.py")
            if not getattr(recipe.traits, trait):
                return str(trait)
    return ""


def left_out_markers(option: argparse.Namespace, *, named: bool) -> list[str]:
    """Return the markers of the cells that the options leave out; `named` is true when cases are selected by name.

    Slow cases run with --deep or --full, with more than a sample, and when they are named.
    """
    more = option.full or option.sweep != Depth.SAMPLE.value or option.schedules != "sample"
    selects = {
        "crash_triggers": option.crash_triggers == "all",
        "deep": named or option.deep or more,
        "full": named or option.full,
    }
    return [marker for marker, selected in selects.items() if not selected]


def without_optional_cells(items: list[pytest.Item], left_out: Collection[str]) -> list[pytest.Item]:
    """Return the items without those that have one of these markers."""
    return [item for item in items if not any(item.get_closest_marker(marker) for marker in left_out)]


def without_repeated_mutants(items: list[pytest.Item]) -> list[pytest.Item]:
    """Return the items without the cells that run a mutant of a parametrized case with a later one of its values.

    The first value shows that the case can fail for this mutant; the honest cells remain for all values.
    """
    seen: set[tuple[str, str, str, str]] = set()
    kept = []
    for item in items:
        cell = cell_of(item)
        if cell is not None and cell.mutant:
            key = (cell.file, cell.item_name.partition("[")[0], cell.vm, cell.mutant)
            if key in seen:
                continue
            seen.add(key)
        kept.append(item)
    return kept


def without_cells_outside_test_cells(
    items: list[pytest.Item], recipes: Iterable[Recipe], *, complete: bool
) -> list[pytest.Item]:
    """Return the items without the cells of a VM with `test_cells` that its recipe does not name there.

    `complete` is true if the items are all cells of the files that were collected. Then a name that matches none of
    them raises UsageError.
    """
    names = {recipe.name: recipe.test_cells for recipe in recipes if recipe.test_cells}
    kept: list[pytest.Item] = []
    files: set[str] = set()
    matched: set[tuple[str, str]] = set()
    for item in items:
        cell = cell_of(item)
        if cell is None or cell.vm not in names:
            kept.append(item)
            continue
        files.add(PurePath(cell.file).name)
        found = [name for name in names[cell.vm] if _is_named(cell, name)]
        matched.update((cell.vm, name) for name in found)
        kept += [item] if found else []
    for vm, name in ((vm, name) for vm, each in names.items() for name in each):
        if complete and name.partition("::")[0] in files and (vm, name) not in matched:
            raise pytest.UsageError(
                f"{vm}.toml: `test_cells` names {name!r}, which is no cell; correct it or remove it"
            )
    return kept


def _is_named(cell: CellId, name: str) -> bool:
    """Return True if `FILE.py`, `FILE.py::TEST` or `FILE.py::TEST[PARAMETER]` names the case of the cell."""
    file, _, case = name.partition("::")
    return file == PurePath(cell.file).name and (not case or case in (cell.case, cell.case.partition("[")[0]))


def skip_cells_without_traits(items: Iterable[pytest.Item], recipes: Mapping[str, Recipe]) -> None:
    """Mark each cell whose VM lacks a required trait as skipped, with the trait's name."""
    for item in items:
        cell = cell_of(item)
        if cell is None:
            continue
        lacking = missing_trait(item, recipes[cell.vm])
        if lacking:
            item.add_marker(pytest.mark.skip(reason=f"{cell.vm} has no {lacking}"))


def tests_and_loader_cells(items: list[pytest.Item]) -> list[pytest.Item]:
    """Return the harness's own tests and the cells that load a probe through a loader: those that --loader is about."""
    return [item for item in items if cell_of(item) is None or _LOADER_FIXTURES & set(_fixture_names(item))]


def skip_cells_needing_own_loader(items: Iterable[pytest.Item]) -> None:
    """Mark each cell as skipped that a foreign loader cannot run, with the reason."""
    for item in items:
        cell, marker = cell_of(item), item.get_closest_marker("own_loader")
        if marker:
            item.add_marker(pytest.mark.skip(reason=f"needs Pinpoint's own loader: {marker.args[0]}"))
        elif cell and pinning.mutant_or_honest(cell.mutant).breaks_loader:
            item.add_marker(pytest.mark.skip(reason="the mutant is a defect of Pinpoint's own loader"))


def _fixture_names(item: pytest.Item) -> Sequence[str]:
    return getattr(item, "fixturenames", ())


def sorted_by_row(items: list[pytest.Item], vms: Sequence[str]) -> list[pytest.Item]:
    """Sort the items: the harness's own tests first, then the cells row by row, each row in the order of the cases."""
    order = {vm: index for index, vm in enumerate(vms)}

    def place(item: pytest.Item) -> int:
        cell = cell_of(item)
        return -1 if cell is None else order[cell.vm]

    return sorted(items, key=place)
