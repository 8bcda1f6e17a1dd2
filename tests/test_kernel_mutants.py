"""The table of kernel mutants agrees with the patch, and mutants are selected correctly on the command line."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from harness.core import paths
from harness.core.architecture_table import ARCHITECTURES
from harness.core.errors import RecipeError, UsageError
from harness.images import kernel_mutant_table
from harness.images.kernel_mutant_table import KernelMutant
from harness.images.recipe_files import fragment_or_patch_path
from harness.images.vm_recipe import Traits, load_all

TABLE = kernel_mutant_table.read_table()
PLACES = kernel_mutant_table.files_by_number(fragment_or_patch_path("patches", kernel_mutant_table.PATCH).read_text())
FEWEST, FEWEST_PAST = 40, 12


def test_every_number_of_the_patch_is_in_the_table() -> None:
    """The table and the patch have the same numbers, in the files that the table names."""
    assert {mutant.number: set(mutant.files) for mutant in TABLE} == PLACES


def test_numbers_and_names_are_used_once() -> None:
    assert len({mutant.number for mutant in TABLE}) == len({mutant.name for mutant in TABLE}) == len(TABLE)


def test_enough_of_them() -> None:
    assert (
        len([mutant for mutant in TABLE if not mutant.is_past_mainline_bug and not mutant.is_older_kernel_rule])
        >= FEWEST
    )
    assert len([mutant for mutant in TABLE if mutant.is_past_mainline_bug]) >= FEWEST_PAST


@pytest.mark.parametrize("mutant", TABLE, ids=str)
def test_each_row(mutant: KernelMutant) -> None:
    """A mutant's architectures, traits and cases exist, and a past bug names its commit."""
    assert set(mutant.arch) <= set(ARCHITECTURES)
    assert set(mutant.equivalent) <= set(mutant.arch)
    assert set(mutant.requires) <= set(Traits.model_fields)
    assert bool(mutant.past) == mutant.is_past_mainline_bug
    assert mutant.is_older_kernel_rule or mutant.cases
    for case in mutant.cases:
        file, _, function = case.partition("::")
        assert function.partition("[")[0] in _functions(paths.CASES / file), case


def _functions(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_places_are_of_added_lines() -> None:
    patch = "--- a/one.c\n+++ b/one.c\n@@ -1 +1,2 @@\n-\tKERNEL_MUTANT(1)\n+\tif (KERNEL_MUTANT(2))\n"
    patch += "--- a/two.c\n+++ b/two.c\n@@ -1 +1,2 @@\n+KERNEL_MUTANT_FOURTH(2)\n \tKERNEL_MUTANT(3)\n"
    assert kernel_mutant_table.files_by_number(patch) == {2: {"one.c", "two.c"}}


def test_chosen() -> None:
    """Mutants are selected by number, list or range; by default all, except rules of older kernels."""
    assert [mutant.number for mutant in kernel_mutant_table.parse_mutants("3,1")] == [3, 1]
    assert [mutant.number for mutant in kernel_mutant_table.parse_mutants("101-103")] == [101, 102, 103]
    assert not any(mutant.is_older_kernel_rule for mutant in kernel_mutant_table.parse_mutants(""))
    for wrong in ("0", "x", "3,", "1-x", "201"):
        with pytest.raises(UsageError):
            kernel_mutant_table.parse_mutants(wrong)


def test_demand() -> None:
    """Only a kernel built with the patch has mutants, and only one at a time."""
    recipes = load_all()
    mutants = [recipe for recipe in recipes.values() if recipe.kernel_mutants]
    assert sorted(recipe.name for recipe in mutants) == ["arm64-mutants", "parisc-mutants", "x86_64-mutants"]
    for recipe in mutants:
        kernel_mutant_table.demand_takes_mutants(recipe)
    with pytest.raises(UsageError, match="kernel-mutants"):
        kernel_mutant_table.demand_takes_mutants(recipes["x86_64-debian"])
    with pytest.raises(UsageError, match="x86_64-fdpin is booted with kernel_mutant=201"):
        kernel_mutant_table.demand_takes_mutants(recipes["x86_64-fdpin"])


def test_older_kernel_rules_of_recipes() -> None:
    """A recipe sets only the rule of an older kernel at boot: with a bug, its cases could not pass."""
    rules = {mutant.number for mutant in TABLE if mutant.is_older_kernel_rule}
    words = [word for recipe in load_all().values() for word in recipe.machine.append.split()]
    numbers = {int(word.partition("=")[2]) for word in words if word.startswith(f"{kernel_mutant_table.PARAMETER}=")}
    assert numbers
    assert numbers <= rules


def test_why_equivalent() -> None:
    """A mutant is equivalent by architecture, for a reason of its own, or because the VM lacks a trait."""
    recipe = load_all()["x86_64-ibt"]
    row = {"number": 1, "name": "a", "kind": "b", "claim": "c", "files": ["d"], "arch": ["x86_64", "arm64"]}
    assert KernelMutant.model_validate(row).why_equivalent(recipe) == ""
    assert "arm64" not in KernelMutant.model_validate(row | {"arch": ["arm64"]}).why_equivalent(recipe)
    assert KernelMutant.model_validate(row | {"arch": ["arm64"]}).why_equivalent(recipe)
    assert "kaslr" in KernelMutant.model_validate(row | {"requires": ["kaslr"]}).why_equivalent(recipe)
    assert KernelMutant.model_validate(row | {"equivalent": {"x86_64": "so"}}).why_equivalent(recipe) == "so"


@pytest.mark.parametrize("text", ["mutant = 1", "[[mutant]\n", '[[mutant]]\nnumber = "1"\n'])
def test_broken_table(tmp_path: Path, text: str) -> None:
    """A broken table is reported in one line that names the file."""
    (tmp_path / "kernel-mutants.toml").write_text(text)
    with pytest.raises(RecipeError, match=r"kernel-mutants\.toml") as raised:
        kernel_mutant_table.read_table(tmp_path / "kernel-mutants.toml")
    assert "\n" not in str(raised.value)
