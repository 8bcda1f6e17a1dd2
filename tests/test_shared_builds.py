"""VMs whose kernels are built from the same inputs share one build, and `list` names them."""

from __future__ import annotations

from typing import cast

import pytest

from harness.core.events import Bus
from harness.images import kernel_mutant_table, object_tree, source_kernel
from harness.images.build_context import BuildContext
from harness.images.debian_packages_by_name import Packages
from harness.images.shared_builds import SharedBuilds, shared_builds
from harness.images.store import Store, key_of
from harness.images.vm_recipe import Recipe, load_all

RECIPES = load_all()
FROM_SOURCE = sorted(name for name, recipe in RECIPES.items() if recipe.kernel.source == "debian-source")


class NamedPackages:
    """Packages whose version and hash are made of their names."""

    def version(self, package: str, _architecture: str) -> str:
        return f"1-{package}"

    def hash(self, package: str, _architecture: str) -> str:
        return f"hash-{package}"

    def upstream_tarball_hash(self, package: str) -> str:
        return f"hash-{package}"


def recipe(name: str, **kernel: object) -> Recipe:
    source = {"source": "debian-source", "package": "linux-source-6.1", "config": ["base", "x86_64"], **kernel}
    return Recipe.model_validate({"name": name, "arch": "x86_64", "describe": "a test", "kernel": source})


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> BuildContext:
    """Return a context whose packages and compilers need not be on the host."""
    for module in (source_kernel, object_tree):
        monkeypatch.setattr(module, "compiler_and_linker_versions", lambda architecture: architecture.cross_prefix)
    bus = Bus()
    return BuildContext(Store(tmp_path_factory.mktemp("store"), bus), cast(Packages, NamedPackages()), bus)


def test_the_inputs_of_the_build_decide() -> None:
    found = shared_builds(
        [
            recipe("one"),
            recipe("two"),
            recipe("relinked", config=["base", "x86_64", "text-sorted"], sibling="one"),
            recipe("other", cflags="-ffunction-sections"),
        ]
    )
    assert found == {
        "one": SharedBuilds(("two",), ("relinked",)),
        "two": SharedBuilds(("one",), ("relinked",)),
        "relinked": SharedBuilds((), ("one", "two")),
        "other": SharedBuilds((), ()),
    }


@pytest.mark.parametrize("name", FROM_SOURCE)
def test_what_is_listed_is_what_the_store_shares(name: str, context: BuildContext) -> None:
    """VMs that are listed as the same kernel have one key in the store; all others have another."""
    keys = {each: key_of(source_kernel.key_parts(RECIPES[each], context)) for each in FROM_SOURCE}
    same = tuple(each for each in FROM_SOURCE if each != name and keys[each] == keys[name])
    assert shared_builds(RECIPES.values())[name].same_kernel == same


def test_one_build_serves_five_vms() -> None:
    """`./pinpoint test` runs cells of four of these VMs, and has no time for a second build."""
    shared = shared_builds(RECIPES.values())["x86_64-fsections"]
    assert shared == SharedBuilds(("x86_64-fdpin", "x86_64-ibt", "x86_64-mutants"), ("x86_64-relinked",))


def test_the_core_vms_have_no_bug_or_rule() -> None:
    """A kernel with the mutants is of use to a core VM only while none is in force."""
    for each in RECIPES.values():
        assert each.tier == "full" or f"{kernel_mutant_table.PARAMETER}=" not in each.machine.append
