"""A kernel from the store alone: without package lists, sources, compilers and the paths of `--kernel`.

The keys of kernels hold the code of the modules that build them, which therefore know nothing of this.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from harness.images import debian_kernel, given_kernel, kernel_source_trees, own_tree_modules, source_kernel
from harness.images.build_context import BuildContext
from harness.images.kernel import KernelBuild, ModuleBuildTrees
from harness.images.kernel_source_trees import Source
from harness.images.recipe_files import fragment_or_patch_path
from harness.images.store import Entry
from harness.images.vm_recipe import Recipe


def obtain(recipe: Recipe, build_context: BuildContext, parts: Sequence[str]) -> KernelBuild:
    """Return the kernel with the inputs `parts`. The context's store must build nothing: it raises HostError.

    The headers of a tree and of a build directory of the user's own are where they were on the host that built it.
    The source of another kernel is unpacked only for modules of the own tree, which are built for it.
    """
    store = build_context.without_builds().store
    entry = store.obtain(debian_kernel.KIND, parts, vm=recipe.name, build=lambda *_: {})
    if recipe.kernel.source == "debian-binary":
        return _of_package(entry)
    if recipe.kernel.source == "given":
        return given_kernel._kernel_build(recipe, entry)
    return source_kernel._kernel_build(entry, _source(recipe, build_context, entry))


def _source(recipe: Recipe, build_context: BuildContext, entry: Entry) -> Source:
    if recipe.kernel.source == "tree":
        return Source(recipe.kernel.tree, "", "", (), Path(recipe.kernel.tree))
    package, _, version = entry.facts["source"].partition(" ")
    patches = [fragment_or_patch_path("patches", name) for name in recipe.kernel.patches]
    source = kernel_source_trees.package_source(package, version, "", patches)
    if not source.tree.is_dir() and own_tree_modules.source_directories():
        with build_context.bus.step(recipe.name, "kernel source") as step:
            kernel_source_trees.obtain_source_tree(source, build_context.packages, step)
    return source


def _of_package(entry: Entry) -> KernelBuild:
    facts = entry.facts
    source, objects = debian_kernel._header_directories(entry.path / "tree", facts["release"])
    return KernelBuild(
        key=entry.key,
        release=facts["release"],
        build_id=facts["build_id"],
        kernel=entry.path / "kernel",
        bootable_elf=entry.path / "vmlinux",
        vmlinux=entry.path / "vmlinux",
        headers=ModuleBuildTrees(source=source, objects=objects),
        drivers=tuple(entry.path / "drivers" / name for name in facts["drivers"]),
        config=json.loads((entry.path / "config.json").read_text()),
        facts={"symbols": facts["symbols"]},
    )
