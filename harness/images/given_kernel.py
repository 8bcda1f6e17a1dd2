"""A kernel that the user built: a build directory, packages, or an image with its modules and headers."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.elf import Elf
from harness.core.errors import UsageError
from harness.core.events import ProgressStep
from harness.core.files import code_sha256
from harness.images import (
    debian_kernel,
    drivers,
    given_kernel_host_programs,
    given_kernel_parts,
    kernel_config,
    object_tree,
    vmlinux,
)
from harness.images.build_context import BuildContext
from harness.images.debian_packages_by_name import Packages
from harness.images.given_kernel_parts import KernelParts
from harness.images.kernel import KernelBuild, ModuleBuildTrees
from harness.images.store import Entry
from harness.images.vm_recipe import Recipe

KIND = "kernel"
_TREE = "tree"
_CODE = (
    "given_kernel.py",
    "given_kernel_parts.py",
    "given_kernel_host_programs.py",
    "rpm.py",
    "drivers.py",
    "vmlinux.py",
)


def key_parts(recipe: Recipe, build_context: BuildContext) -> list[str]:  # noqa: ARG001 - the interface of a layer
    """Return every input of this kernel, for its store key; nothing is unpacked."""
    code = [code_sha256(Path(__file__).with_name(name)) for name in _CODE]
    return [
        recipe.arch,
        *given_kernel_parts.key_parts_of_files(_paths(recipe)),
        f"drivers {' '.join(recipe.architecture.qemu_machine.nic_modules)}",
        *code,
    ]


def obtain(recipe: Recipe, build_context: BuildContext, parts: Sequence[str]) -> KernelBuild:
    """Return the given kernel. Raises UsageError with what is missing, BuildError when the image cannot be read."""
    job = _Job(recipe, build_context.packages)
    entry = build_context.store.obtain(KIND, parts, vm=recipe.name, build=job.build)
    return _kernel_build(recipe, entry)


def _kernel_build(recipe: Recipe, entry: Entry) -> KernelBuild:
    facts = entry.facts
    inside = _TREE in facts["places"]
    places = {name: Path(path) for name, path in facts["paths"].items()}
    source, objects = (entry.path / places[name] if inside else places[name] for name in ("source", "objects"))
    linked = entry.path / "vmlinux"
    built = recipe.architecture.kernel_file == "vmlinux"
    return KernelBuild(
        key=entry.key,
        release=facts["release"],
        build_id=facts["build_id"],
        kernel=linked if built else entry.path / "kernel",
        bootable_elf=linked,
        vmlinux=linked,
        headers=ModuleBuildTrees(source=source, objects=objects),
        drivers=tuple(entry.path / "drivers" / name for name in facts["drivers"]),
        config=json.loads((entry.path / "config.json").read_text()),
        facts={name: value for name, value in facts.items() if isinstance(value, int)},
    )


def _paths(recipe: Recipe) -> list[Path]:
    return [Path(path) for path in recipe.kernel.given]


@dataclass(frozen=True)
class _Job:
    """Build of the store entry of one given kernel."""

    recipe: Recipe
    packages: Packages

    def build(self, entry: Path, step: ProgressStep) -> Mapping[str, Any]:
        """Find the parts, check the configuration, and copy what a guest needs."""
        architecture = self.recipe.architecture
        parts = self._parts(entry / _TREE, step)
        config = kernel_config.parse_set_options(parts.config.read_text())
        kernel_config.demand_needed(config, architecture.name, str(parts.config))
        step.publish_progress("reading the kernel's symbols", 0.3)
        shutil.copyfile(parts.image, entry / "kernel")
        if parts.vmlinux:
            shutil.copyfile(parts.vmlinux, entry / "vmlinux")
            symbols = len(Elf.read(entry / "vmlinux").symbols)
        else:
            symbols = vmlinux.write_vmlinux(entry / "kernel", entry / "vmlinux", architecture)
        elf = Elf.read(entry / "vmlinux")
        if elf.machine != architecture.elf_machine:
            raise UsageError(f"is for {elf.machine}, the VM for {architecture.elf_machine}", where=str(parts.image))
        (entry / "config.json").write_text(json.dumps(config))
        unpacked = (entry / _TREE).is_dir()
        kept = self._drivers(parts, entry, config)
        if unpacked:
            step.publish_progress("preparing the headers", 0.8)
            self._settle(entry / _TREE, parts)
        given_kernel_host_programs.demand_modpost_runs_here(parts.objects)
        given_kernel_host_programs.demand_pahole_for_btf(parts.objects, config)
        facts: dict[str, Any] = {
            "release": parts.release,
            "build_id": elf.build_id,
            "drivers": kept,
            "symbols": symbols,
            "places": [_TREE] if unpacked else [],
            "paths": {
                name: str(path.relative_to(entry) if unpacked else path)
                for name, path in (("source", parts.source), ("objects", parts.objects))
            },
        }
        linked = parts.objects / "vmlinux.o"
        if linked.is_file():
            facts["text_sections"] = object_tree.count_function_sections(linked, architecture)
        step.set_final_detail(f"{parts.release}, {symbols} symbols")
        return facts

    def _parts(self, tree: Path, step: ProgressStep) -> KernelParts:
        given = _paths(self.recipe)
        what = " ".join(self.recipe.kernel.given)
        if len(given) == 1 and given_kernel_parts.is_build_directory(given[0]):
            return given_kernel_parts.find_parts_in_build(given[0], self.recipe.architecture.kernel_file)
        packages = [path for path in given if given_kernel_parts.is_package(path)]
        if not packages:
            return given_kernel_parts.find_parts_given_separately(given, what)
        step.publish_progress(f"unpacking {len(packages)} packages", 0.0)
        given_kernel_parts.unpack(packages, tree)
        return given_kernel_parts.find_parts_in_packages(tree, what)

    def _drivers(self, parts: KernelParts, entry: Path, config: Mapping[str, str]) -> list[str]:
        """Keep the drivers that a guest loads; none are needed if the configuration has them built in."""
        wanted = self.recipe.architecture.qemu_machine.nic_modules
        options = {name: config.get(f"CONFIG_{name.upper()}") for name in wanted}
        if all(value == "y" for value in options.values()):
            return []
        if parts.modules is None:
            missing = ", ".join(name for name, value in options.items() if value != "y")
            raise UsageError(
                f"the network drivers {missing} are modules, and no directory of modules is given",
                where=" ".join(self.recipe.kernel.given),
                mend="add the directory lib/modules/RELEASE or the package with it",
            )
        with tempfile.TemporaryDirectory(dir=entry) as scratch:
            staged = given_kernel_parts.stage_decompressed_modules(parts, Path(scratch))
            return drivers.copy_modules(staged, wanted, entry / "drivers")

    def _settle(self, tree: Path, parts: KernelParts) -> None:
        """Make unpacked headers usable in place, and remove the modules, which are not needed any more."""
        if parts.source != parts.objects:
            debian_kernel.prepare_headers_for_builds(tree, parts.release)
        for top in ("boot", "lib/modules", "usr/lib/modules", "usr/share"):
            shutil.rmtree(tree / top, ignore_errors=True)
        # With the kernel's BTF kbuild would run pahole on modules (scripts/Makefile.modfinal, 6.12).
        (parts.objects / "vmlinux").unlink(missing_ok=True)
        given_kernel_host_programs.run_with_newer_libraries(tree, self.packages)


def demand_paths_are_kernel_parts(given: Sequence[Path]) -> None:
    """Raise UsageError for a path that does not exist, and for an ELF file or directory that is no part of a kernel."""
    for path in given:
        try:
            path.stat()
        except OSError as error:
            raise UsageError(
                str(error.strerror), where=str(path), mend="name a kernel; see docs/gate-a-kernel.md"
            ) from (None)
