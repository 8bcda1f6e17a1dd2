"""The probe modules, built for one kernel with its headers and compiler, and checked before they are stored."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core import paths
from harness.core.deadline import Deadline
from harness.core.elf import Elf
from harness.core.errors import BuildError
from harness.core.events import ProgressStep
from harness.core.files import code_sha256, sha256, sha256_of_strings
from harness.images import debian_suite_compiler, precompiled_table
from harness.images.build_context import BuildContext
from harness.images.kbuild import MakeProgress
from harness.images.kernel import KernelBuild
from harness.images.kernel_toolchain import ProbeMake as Make
from harness.images.kernel_toolchain import probe_compiler_and_linker_versions as compiler_and_linker_versions
from harness.images.module_build_directory import ModuleBuildDirectory, hold_module_build_directory
from harness.images.vm_recipe import Recipe

KIND = "modules"

_BUILD_S = 900.0
_SOURCES = ("Kbuild", "*.c", "*.h", "*.S")
_PROGRAMS = ("loader", "user")
# make exports it to ccache, which then reads the list of headers that the compiler writes, and does not run the
# preprocessor as well: a third of the time of a build that finds nothing. It would not notice a changed file of an
# .incbin directive. The kernel has such files (kernel/configs.c, 6.1), probes/ has none.
_DEPEND_MODE = {"CCACHE_DEPEND": "1"}
# The code that the built modules depend on, by path below harness/.
_CODE = (
    "images/modules.py",
    "images/kbuild.py",
    "images/precompiled_table.py",
    "core/source_line_to_offset.py",
    "core/line_table.py",
)


def key_parts(recipe: Recipe, kernel_key: str, build_context: BuildContext) -> list[str]:
    """Return every input of the modules for the kernel with that store key."""
    code = [code_sha256(Path(__file__).parents[1] / name) for name in _CODE]
    compiler = [
        compiler_and_linker_versions(recipe.architecture),
        *debian_suite_compiler.key_parts(recipe, build_context),
    ]
    return [kernel_key, _probes_digest(), recipe.kernel.cflags, *compiler, *code]


def obtain(
    recipe: Recipe, kernel: KernelBuild, build_context: BuildContext, parts: Sequence[str]
) -> Mapping[str, Path]:
    """Return every module of probes/ for this kernel, by name: `pinpoint_target` to its file.

    Each directory of probes/ with a Kbuild is built separately, so that two directories may have modules of one name,
    such as `rebuilt/pinpoint_target`. Warnings are errors. Each module has DWARF lines and a build-id. Raises
    BuildError with the log when the modules do not build, and when this kernel cannot load one of them.
    """
    job = _Job(recipe, kernel, build_context)
    entry = build_context.store.obtain(KIND, parts, vm=recipe.name, build=job.build)
    return _by_name(entry.path)


def check(module: Path, kernel: KernelBuild) -> None:
    """Demand that a module is for this kernel and has a build-id and DWARF lines. Raises BuildError."""
    elf, vmlinux = Elf.read(module), Elf.read(kernel.vmlinux)
    release = elf.modinfo_value("vermagic").partition(" ")[0]
    if (elf.machine, elf.word_bytes, elf.byte_order) != (vmlinux.machine, vmlinux.word_bytes, vmlinux.byte_order):
        wrong = f"is for {elf.machine}, {elf.word_bytes * 8} bit, the kernel for {vmlinux.machine}"
    elif release != kernel.release:
        wrong = f"is for the kernel {release!r}, not {kernel.release!r}"
    elif not elf.build_id:
        wrong = "has no build-id"
    elif ".debug_line" not in elf.sections_by_name:
        wrong = "has no DWARF line table"
    else:
        return
    raise BuildError(f"{module.name} {wrong}", mend="see probes/Kbuild and the kernel's headers")


def _probe_sources() -> list[Path]:
    """Return the sources of every module, without the directories of programs."""
    found = (path for pattern in _SOURCES for path in paths.PROBES.rglob(pattern))
    return sorted(path for path in found if path.relative_to(paths.PROBES).parts[0] not in _PROGRAMS)


def _probes_digest() -> str:
    return sha256_of_strings(
        part for path in _probe_sources() for part in (str(path.relative_to(paths.PROBES)), sha256(path))
    )


@dataclass(frozen=True)
class _Job:
    """Build of one kernel's modules into a store entry."""

    recipe: Recipe
    kernel: KernelBuild
    build_context: BuildContext

    def build(self, entry: Path, step: ProgressStep) -> Mapping[str, Any]:
        """Build a copy of probes/, because kbuild writes to the sources' directory, which may be read-only."""
        with hold_module_build_directory(self.recipe, self.kernel.headers, step) as place:
            self._build_copy(place, step)
            for name, module in _by_name(place.sources).items():
                check(module, self.kernel)
                kept = entry / f"{name}.ko"
                kept.parent.mkdir(exist_ok=True)
                module.rename(kept)
        return {
            "release": self.kernel.release,
            "build_ids": {name: Elf.read(path).build_id for name, path in _by_name(entry).items()},
        }

    def _build_copy(self, place: ModuleBuildDirectory, step: ProgressStep) -> None:
        """Copy probes/ to the directory and build every module there."""
        scratch = place.sources
        for source in _probe_sources():
            copy = scratch / source.relative_to(paths.PROBES)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
        for kbuild in sorted(scratch.rglob("Kbuild"), key=_order):
            if kbuild.parent.name == precompiled_table.DIRECTORY:
                precompiled_table.write_c_table(kbuild.parent, scratch)
            self._make(place, kbuild.parent, step)
            if not list(kbuild.parent.glob("*.ko")):
                where = paths.PROBES / kbuild.relative_to(scratch)
                raise BuildError("no module was built", where=str(where), mend="name one in obj-m")

    def _make(self, place: ModuleBuildDirectory, directory: Path, step: ProgressStep) -> None:
        """Build one directory of the copy with the flags of the kernel itself.

        Debug information contains no directory of this machine. The build takes seconds, so it needs no compile slot
        and no nice value: otherwise a row that has its kernel would wait minutes for rows that compile theirs.
        """
        headers = place.headers
        maps = {place.sources: "probes", headers.objects: "objects", headers.source: "linux"}
        flags = [
            self.recipe.kernel.cflags,
            *self.recipe.architecture.module_flags,
            "-Werror -g1",
            *(f"-ffile-prefix-map={old}={new}" for old, new in maps.items()),
        ]
        log = paths.cache() / "logs" / f"modules-{self.recipe.name}.log"
        if directory == place.sources:
            log.unlink(missing_ok=True)
        cores = self.build_context.slots.cores
        program = debian_suite_compiler.obtain_compiler(self.recipe, self.build_context)
        make = Make(
            self.recipe.architecture, headers.source, headers.objects, log, jobs=cores, nice=0, compiler_program=program
        )
        variables = {"M": str(directory), "KCFLAGS": " ".join(flags).strip(), **_DEPEND_MODE}
        make.run(["modules"], MakeProgress(step), deadline=Deadline.after(_BUILD_S), variables=variables)


def _order(kbuild: Path) -> tuple[int, Path]:
    """Sort key of a Kbuild: outer directories first, because the precompiled probe is made from the targets' files."""
    return len(kbuild.parts), kbuild


def _by_name(directory: Path) -> dict[str, Path]:
    """Return the modules below a directory by their relative path without suffix: `rebuilt/pinpoint_target`."""
    return {str(path.relative_to(directory).with_suffix("")): path for path in sorted(directory.rglob("*.ko"))}
