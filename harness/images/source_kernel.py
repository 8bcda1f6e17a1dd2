"""A kernel built from source, with a checked configuration and with objects kept for the next build."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.core import locks, paths
from harness.core.deadline import Deadline
from harness.core.elf import Elf
from harness.core.errors import UsageError
from harness.core.events import ProgressStep
from harness.core.files import code_sha256, write_text
from harness.images import drivers, kbuild, kernel_config, kernel_source_trees, object_tree
from harness.images.build_context import BuildContext
from harness.images.kbuild import MakeProgress
from harness.images.kernel import KernelBuild, ModuleBuildTrees
from harness.images.kernel_source_trees import Source
from harness.images.kernel_toolchain import Make, compiler_and_linker_versions
from harness.images.recipe_files import fragment_or_patch_path
from harness.images.store import Entry
from harness.images.vm_recipe import Recipe

KIND = "kernel"

_BUILD_S = 2 * 3600.0
_CONFIGURE_S = 600.0
# The assumed number of build commands, for progress until a build has been counted.
_FIRST_GUESS = 1400
_CODE = ("source_kernel.py", "kernel_config.py", "object_tree.py", "kbuild.py", "kernel_source_trees.py")


def key_parts(recipe: Recipe, build_context: BuildContext) -> list[str]:
    """Return every input of this kernel, for its store key, without fetching or building anything."""
    source = kernel_source_trees.source_tree_of_recipe(recipe, build_context.packages)
    fragments = [fragment_or_patch_path("config", name).read_text() for name in recipe.kernel.config]
    own = [_own_config(recipe)] if recipe.kernel.config_file else []
    code = [code_sha256(Path(__file__).with_name(name)) for name in _CODE]
    return [
        recipe.arch,
        *source.key_parts,
        *fragments,
        *own,
        recipe.kernel.cflags,
        compiler_and_linker_versions(recipe.architecture),
        *code,
    ]


def _own_config(recipe: Recipe) -> str:
    """Return the text of the user's own configuration. Raises UsageError."""
    path = Path(recipe.kernel.config_file)
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        what = (isinstance(error, OSError) and error.strerror) or "is not UTF-8"
        raise UsageError(str(what), where=str(path), mend="give a kernel's .config with --config") from None


def obtain(recipe: Recipe, build_context: BuildContext, parts: Sequence[str]) -> KernelBuild:
    """Return the recipe's kernel, from the store or built now, and unpack its source tree for module builds.

    The recipe's `cflags` apply to the kernel and to every module built for it. Drivers that a guest needs are built in.
    Raises RecipeError (unsatisfiable fragments, patches that do not apply) and BuildError (with the log).
    """
    source = kernel_source_trees.source_tree_of_recipe(recipe, build_context.packages)
    job = _Job(recipe, source, build_context)
    entry = build_context.store.obtain(KIND, parts, vm=recipe.name, build=job.build)
    if not source.tree.is_dir():
        with build_context.bus.step(recipe.name, "kernel source") as step:
            kernel_source_trees.obtain_source_tree(source, build_context.packages, step)
    return _kernel_build(entry, source)


def _kernel_build(entry: Entry, source: Source) -> KernelBuild:
    facts = entry.facts
    vmlinux = entry.path / "vmlinux"
    return KernelBuild(
        key=entry.key,
        release=facts["release"],
        build_id=facts["build_id"],
        kernel=entry.path / facts["kernel"],
        bootable_elf=vmlinux,
        vmlinux=vmlinux,
        headers=ModuleBuildTrees(source=source.tree, objects=entry.path / object_tree.NAME),
        drivers=tuple(entry.path / "drivers" / name for name in facts.get("drivers", ())),
        config=kernel_config.parse_set_options((entry.path / "config").read_text()),
        facts={name: value for name, value in facts.items() if isinstance(value, int)},
    )


@dataclass(frozen=True)
class _Job:
    """Build of one kernel into a store entry."""

    recipe: Recipe
    source: Source
    build_context: BuildContext

    def build(self, entry: Path, step: ProgressStep) -> Mapping[str, Any]:
        """Build in the locked object tree, then copy the files that later steps need to `entry`."""
        kernel_source_trees.obtain_source_tree(self.source, self.build_context.packages, step)
        lock = self._objects.with_name(f".{self._objects.name}.lock")
        with (
            locks.hold_lock(lock, deadline=Deadline.after(_BUILD_S), on_wait=step.publish_progress),
            self.build_context.slots.wait_for_slot() as jobs,
        ):
            if not self._objects.exists():
                self._log.unlink(missing_ok=True)
                self._objects.mkdir(parents=True)
            make = Make(self.recipe.architecture, self.source.tree, self._objects, self._log, jobs)
            self._configure(make, step)
            self._compile(make, step)
            return self._gather(entry, step)

    @cached_property
    def _objects(self) -> Path:
        return object_tree.directory(self.recipe, self.source.tree)

    @property
    def _log(self) -> Path:
        return paths.cache() / "logs" / f"kernel-{self._objects.name}.log"

    def _configure(self, make: Make, step: ProgressStep) -> None:
        """Run Kconfig on the fragments and check that the configuration has all their options."""
        step.publish_progress("configuring")
        if self.recipe.kernel.config_file:
            self._configure_own(make, step)
            return
        wishes = kernel_config.merge([fragment_or_patch_path("config", name) for name in self.recipe.kernel.config])
        seed = self._objects / "pinpoint.config"
        write_text(seed, kernel_config.allconfig_text(wishes))
        make.run(
            ["allnoconfig"],
            MakeProgress(step),
            deadline=Deadline.after(_CONFIGURE_S),
            variables={"KCONFIG_ALLCONFIG": str(seed)},
        )
        kernel_config.check(
            wishes, kernel_config.parse_set_options((self._objects / ".config").read_text()), self.source.tree
        )

    def _configure_own(self, make: Make, step: ProgressStep) -> None:
        """Take the user's own configuration; Kconfig sets new options to their defaults. Check what a guest needs."""
        write_text(self._objects / ".config", _own_config(self.recipe))
        make.run(["olddefconfig"], MakeProgress(step), deadline=Deadline.after(_CONFIGURE_S))
        config = kernel_config.parse_set_options((self._objects / ".config").read_text())
        kernel_config.demand_needed(config, self.recipe.arch, self.recipe.kernel.config_file)

    def _compile(self, make: Make, step: ProgressStep) -> None:
        """Run make, with progress relative to the commands of the last build."""
        counted = self._objects.with_name(f"{self.recipe.name}.commands")
        expected = int(counted.read_text()) if counted.exists() else _FIRST_GUESS
        output = MakeProgress(step, expected)
        targets = [self.recipe.architecture.kernel_target, "modules"]
        make.run(targets, output, deadline=Deadline.after(_BUILD_S), variables={"KCFLAGS": self.recipe.kernel.cflags})
        write_text(
            counted, f"{max(output.printed_command_count, int(counted.read_text()) if counted.exists() else 0)}\n"
        )

    def _drivers(self, entry: Path) -> list[str]:
        """Keep the drivers that the user's own configuration makes modules; return their names."""
        with tempfile.TemporaryDirectory(dir=entry) as scratch:
            (Path(scratch) / "kernel").mkdir()
            shutil.copyfile(self._objects / "modules.builtin", Path(scratch) / "modules.builtin")
            for module in self._objects.rglob("*.ko"):
                (Path(scratch) / "kernel" / module.name).symlink_to(module)
            return drivers.copy_modules(
                Path(scratch), self.recipe.architecture.qemu_machine.nic_modules, entry / "drivers"
            )

    def _gather(self, entry: Path, step: ProgressStep) -> Mapping[str, Any]:
        """Copy the finished kernel to its entry and return its facts."""
        architecture = self.recipe.architecture
        kernel = Path(architecture.kernel_file).name
        kept = {kernel: architecture.kernel_file, "vmlinux": "vmlinux", "System.map": "System.map", "config": ".config"}
        for name, made in kept.items():
            shutil.copyfile(self._objects / made, entry / name)
        object_tree.copy_build_files(self._objects, entry / object_tree.NAME)
        loaded = self._drivers(entry) if self.recipe.kernel.config_file else []
        objects = sum(1 for _ in self._objects.rglob("*.o"))
        warnings = len(kbuild.warnings(self._log))
        step.set_final_detail(f"{objects} objects, {warnings} warnings")
        return {
            "release": (self._objects / "include/config/kernel.release").read_text().strip(),
            "build_id": Elf.read(entry / "vmlinux").build_id,
            "kernel": kernel,
            "source": f"{self.source.package} {self.source.version}",
            "compiler": compiler_and_linker_versions(architecture),
            "objects": objects,
            "drivers": loaded,
            "warnings": warnings,
            "text_sections": object_tree.count_function_sections(self._objects / "vmlinux.o", architecture),
        }
