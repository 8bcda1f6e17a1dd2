"""A tree for module builds that also has the kernel's debug information: Debian's debug package, or the kernel's own.

systemtap finds `kernel.function("...")` and `module("...").function("...")` by DWARF, in a vmlinux and in modules below
the tree that it compiles for. The package has some 800 MB; its vmlinux has 600 MB and is kept. A kernel that Pinpoint
builds has debug information in its vmlinux if its configuration has it, as with vm_images/config/debug-info.config.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from harness.core.deadline import Deadline
from harness.core.elf import Elf
from harness.core.errors import HostError
from harness.core.events import ProgressStep
from harness.core.files import code_sha256
from harness.images import deb, debug_symbols
from harness.images.build_context import BuildContext
from harness.images.image import Image

KIND = "debug-information"
_TREE, _VMLINUX, _MODULES, _CONFIG = "tree", "vmlinux", "modules", ".config"
_FETCHING = 1800.0


def is_at_hand(image: Image) -> bool:
    """Return True if the recipe has `debug_symbols`, or the kernel was built with debug information."""
    return image.recipe.kernel.debug_symbols or _has_debug_information(image.vmlinux)


def _has_debug_information(vmlinux: Path) -> bool:
    return ".debug_info" in Elf.read_cached(vmlinux).sections_by_name


def obtain(image: Image, build_context: BuildContext) -> Path:
    """Return the tree of an image whose debug information is at hand, from the store or made now.

    It has the debug information of the kernel and, from the package, of the modules that the guest loads. The image has
    a tree for module builds. Raises BuildError when the package belongs to another build, HostError when it cannot be
    fetched.
    """
    assert image.headers is not None
    objects = image.headers.objects
    if not _has_debug_information(image.vmlinux):
        return _from_package(image, build_context)
    return objects if (objects / _VMLINUX).exists() else _of_built_kernel(image, objects, build_context)


def _of_built_kernel(image: Image, objects: Path, build_context: BuildContext) -> Path:
    """A copy of the kernel's tree that also has its vmlinux and .config, which a build of modules does not need."""

    def build(entry: Path, step: ProgressStep) -> Mapping[str, Any]:  # noqa: ARG001 - the interface of the store
        _copy_tree(objects, entry / _TREE)
        shutil.copyfile(image.vmlinux, entry / _TREE / _VMLINUX)
        if not (entry / _TREE / _CONFIG).exists():
            shutil.copyfile(image.vmlinux.with_name("config"), entry / _TREE / _CONFIG)
        return {}

    parts = [image.build_id, str(objects), code_sha256(Path(__file__))]
    return build_context.store.obtain(KIND, parts, vm=image.recipe.name, build=build).path / _TREE


def _from_package(image: Image, build_context: BuildContext) -> Path:
    assert image.headers is not None
    context = build_context.with_suite(image.recipe.kernel.suite)
    name, architecture = debug_symbols.package(image.recipe, context)
    source, objects = image.headers.source, image.headers.objects

    def build(entry: Path, step: ProgressStep) -> Mapping[str, Any]:
        step.publish_progress(f"fetching {name}", 0.0)
        fetched = context.packages.fetch(name, architecture, deadline=Deadline.after(_FETCHING))
        tree = entry / _TREE
        _copy_tree(objects, tree)
        # The package's Makefile includes that of the source by a path relative to itself.
        (tree / "Makefile").write_text(f"include {source}/Makefile\n")
        step.publish_progress(f"unpacking {name}", 0.2)
        found = _unpack(fetched, debug_symbols.vmlinux_places(image.release), image.drivers.keys(), tree)
        debug_symbols.demand_build_id(Elf.read(tree / _VMLINUX).build_id, image.build_id, image.recipe)
        step.set_final_detail(f"the kernel and {len(found)} modules")
        return {"modules": sorted(found)}

    parts = [
        f"{name} {context.packages.hash(name, architecture)}",
        # The tree refers to the source and to the programs of this kernel's entry by their paths.
        str(objects),
        *(code_sha256(Path(str(file))) for file in (__file__, debug_symbols.__file__, deb.__file__)),
    ]
    return build_context.store.obtain(KIND, parts, vm=image.recipe.name, build=build).path / _TREE


def _copy_tree(objects: Path, tree: Path) -> None:
    """Copy a tree; its links keep their targets."""
    shutil.copytree(objects, tree, symlinks=True)
    for link in [path for path in tree.rglob("*") if path.is_symlink()]:
        target = (objects / link.relative_to(tree)).resolve()
        link.unlink()
        link.symlink_to(target)


def _unpack(package: Path, vmlinux: Collection[str], modules: Collection[str], tree: Path) -> set[str]:
    """Unpack the vmlinux, and the files of these modules; return the names of those that were found."""
    found: set[str] = set()
    for path, content in deb.files_in_order(package):
        name = PurePosixPath(path)
        if path in vmlinux:
            copy = tree / _VMLINUX
        elif name.suffix == ".ko" and name.stem.replace("-", "_") in modules:
            found.add(name.stem.replace("-", "_"))
            copy = tree / _MODULES / name.name
            copy.parent.mkdir(exist_ok=True)
        else:
            continue
        with copy.open("xb") as out:
            shutil.copyfileobj(content, out)
        if len(found) == len(modules) and (tree / _VMLINUX).exists():
            break
    if not (tree / _VMLINUX).exists():
        raise HostError(
            f"has no file {' or '.join(vmlinux)}", where=package.name, mend="has Debian moved it elsewhere?"
        )
    return found
