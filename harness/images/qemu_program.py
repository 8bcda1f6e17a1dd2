"""The QEMU that a recipe needs: the host's if it is new enough, else the QEMU of a newer Debian suite."""

from __future__ import annotations

import os
from pathlib import Path

from harness.core import program_versions
from harness.core.architecture_table import ARCHITECTURES
from harness.core.errors import HostError
from harness.images import debian_suite_host_programs
from harness.images.build_context import BuildContext
from harness.images.debian_suite_host_programs import WantedSuitePrograms
from harness.images.vm_recipe import Emulator, Recipe

# Set by --host-qemu: use the host's QEMU even if a recipe needs a newer one.
HOST_QEMU_VARIABLE = "PINPOINT_HOST_QEMU"
_SUITE = "trixie-backports"
# That suite's package of each emulator, and the package with its firmware if that is another one.
_PACKAGES = {
    "qemu-system-x86_64": ("qemu-system-x86",),
    "qemu-system-i386": ("qemu-system-x86",),
    "qemu-system-aarch64": ("qemu-system-arm",),
    "qemu-system-arm": ("qemu-system-arm",),
    "qemu-system-hppa": ("qemu-system-misc",),
    "qemu-system-ppc64": ("qemu-system-ppc",),
    "qemu-system-riscv64": ("qemu-system-riscv", "opensbi"),
    "qemu-system-s390x": ("qemu-system-s390x",),
    "qemu-system-mips64el": ("qemu-system-mips",),
    "qemu-system-loongarch64": ("qemu-system-misc",),
}


def with_required_qemu(recipe: Recipe, build_context: BuildContext) -> Recipe:
    """Return the recipe with the QEMU for its guests, which is fetched if this host's QEMU is too old.

    On a host without QEMU the recipe is returned unchanged, and starting a guest raises the error. Raises HostError
    when the suite has no such QEMU.
    """
    if not _elsewhere(recipe):
        return _with(recipe, recipe.architecture.qemu_machine.qemu)
    entry = debian_suite_host_programs.obtain_launchers(_wanted(recipe), build_context, vm=recipe.name)
    found = _with(recipe, str(_launcher(recipe, entry.path)))
    emulator = found.machine.emulator
    if emulator is None or emulator.version < recipe.machine.oldest_qemu:
        raise HostError(f"{_SUITE} has no QEMU {recipe.machine.qemu}", where=recipe.name, mend="correct machine.qemu")
    return found


def required_qemu_program(recipe: Recipe, build_context: BuildContext) -> str:
    """Return the program that `with_required_qemu` chooses, even if it has not been fetched yet."""
    program = ARCHITECTURES[recipe.arch].qemu_machine.qemu
    if not _elsewhere(recipe):
        return program
    key = build_context.store.entry_path(
        debian_suite_host_programs.KIND, debian_suite_host_programs.key_parts(_wanted(recipe), build_context)
    )
    return str(_launcher(recipe, key))


def store_entry(recipe: Recipe, build_context: BuildContext) -> dict[str, list[str]]:
    """Map the kind of the store entry with the recipe's QEMU to its inputs; empty if the host's QEMU is used."""
    if not _elsewhere(recipe):
        return {}
    return {debian_suite_host_programs.KIND: debian_suite_host_programs.key_parts(_wanted(recipe), build_context)}


def is_required_qemu_present(recipe: Recipe, build_context: BuildContext) -> bool:
    """Return True when nothing needs to be fetched for the recipe's QEMU."""
    if not _elsewhere(recipe):
        return True
    return build_context.store.present(
        debian_suite_host_programs.KIND, debian_suite_host_programs.key_parts(_wanted(recipe), build_context)
    )


def _elsewhere(recipe: Recipe) -> bool:
    """Return True when this host's QEMU is too old for the recipe, or absent."""
    oldest = recipe.machine.oldest_qemu
    if os.environ.get(HOST_QEMU_VARIABLE) or oldest == (0, 0):
        return False
    found = _with(recipe, ARCHITECTURES[recipe.arch].qemu_machine.qemu).machine.emulator
    return found is None or found.version < oldest


def _with(recipe: Recipe, program: str) -> Recipe:
    try:
        version = program_versions.parse_major_minor(program_versions.first_version_line(program))
    except HostError:
        return recipe
    if version is None:
        return recipe
    machine = recipe.machine.model_copy(update={"emulator": Emulator(program=program, version=version)})
    return recipe.model_copy(update={"machine": machine})


def _launcher(recipe: Recipe, entry: Path) -> Path:
    return entry / debian_suite_host_programs.LAUNCHERS / ARCHITECTURES[recipe.arch].qemu_machine.qemu


def _wanted(recipe: Recipe) -> WantedSuitePrograms:
    program = ARCHITECTURES[recipe.arch].qemu_machine.qemu
    if program not in _PACKAGES:
        raise HostError(f"no package of {_SUITE} is known to have {program}", mend=f"see {Path(__file__).name}")
    files = "usr/share/qemu"
    return WantedSuitePrograms(
        suite=_SUITE,
        packages=_PACKAGES[program],
        kept_paths=(f"usr/bin/{program}", files),
        launcher_commands={program: (f"usr/bin/{program}", "-L", f'{{files}}/{files}"')},
    )
