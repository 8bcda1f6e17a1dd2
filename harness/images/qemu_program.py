"""The QEMU that a recipe needs or prefers: the host's if it is new enough, else that of a newer Debian suite."""

from __future__ import annotations

import os
from pathlib import Path

from harness.core import program_versions
from harness.core.architecture_table import ARCHITECTURES
from harness.core.errors import BuildError, HostError, RecipeError
from harness.images import debian_suite_host_programs
from harness.images.build_context import BuildContext
from harness.images.debian_suite_host_programs import WantedSuitePrograms
from harness.images.machine_options import Emulator
from harness.images.vm_recipe import Recipe

# Set by --host-qemu: use the host's QEMU even if a recipe needs or prefers a newer one.
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
    "qemu-system-sh4": ("qemu-system-misc",),
    "qemu-system-sparc64": ("qemu-system-sparc",),
    "qemu-system-mips": ("qemu-system-mips",),
    "qemu-system-mips64el": ("qemu-system-mips",),
    "qemu-system-loongarch64": ("qemu-system-misc",),
}


def with_required_qemu(recipe: Recipe, build_context: BuildContext) -> Recipe:
    """Return the recipe with the QEMU for its guests, which is fetched if this host's QEMU is too old.

    A recipe that only prefers a newer QEMU gets the host's where the suite's cannot be had; a step of the VM has the
    reason. On a host without QEMU the recipe is returned unchanged, and starting a guest raises the error. Raises
    HostError, RecipeError or BuildError when the suite has no QEMU that the recipe needs.
    """
    if not _elsewhere(recipe):
        return _on_this_host(recipe)
    try:
        return _with_suites_qemu(recipe, build_context)
    except (HostError, RecipeError, BuildError) as error:
        if not _is_allowed(_on_this_host(recipe)):
            raise
        with build_context.bus.step(recipe.name, "QEMU") as step:
            step.set_final_detail(f"the host's, as with --host-qemu; {error}")
    return _on_this_host(recipe)


def required_qemu_program(recipe: Recipe, build_context: BuildContext) -> str:
    """Return the program that `with_required_qemu` chooses, even if it has not been fetched yet."""
    parts = _key_parts(recipe, build_context)
    if parts is None:
        return ARCHITECTURES[recipe.arch].qemu_machine.qemu
    return str(_launcher(recipe, build_context.store.entry_path(debian_suite_host_programs.KIND, parts)))


def store_entry(recipe: Recipe, build_context: BuildContext) -> dict[str, list[str]]:
    """Map the kind of the store entry with the recipe's QEMU to its inputs; empty if the host's QEMU is used."""
    parts = _key_parts(recipe, build_context)
    return {} if parts is None else {debian_suite_host_programs.KIND: parts}


def is_required_qemu_present(recipe: Recipe, build_context: BuildContext) -> bool:
    """Return True when nothing needs to be fetched for the recipe's QEMU."""
    parts = _key_parts(recipe, build_context)
    return parts is None or build_context.store.present(debian_suite_host_programs.KIND, parts)


def _key_parts(recipe: Recipe, build_context: BuildContext) -> list[str] | None:
    """Return the inputs of the store entry with a newer suite's QEMU; None if the host's is used."""
    if not _elsewhere(recipe):
        return None
    try:
        return debian_suite_host_programs.key_parts(_wanted(recipe), build_context)
    except (HostError, RecipeError):
        if _is_allowed(_on_this_host(recipe)):
            return None
        raise


def _elsewhere(recipe: Recipe) -> bool:
    """Return True when this host's QEMU is older than the recipe needs or prefers, or absent."""
    oldest = recipe.machine.oldest_preferred_qemu
    if os.environ.get(HOST_QEMU_VARIABLE) or oldest == (0, 0):
        return False
    found = _on_this_host(recipe).machine.emulator
    return found is None or found.version < oldest


def _with_suites_qemu(recipe: Recipe, build_context: BuildContext) -> Recipe:
    entry = debian_suite_host_programs.obtain_launchers(_wanted(recipe), build_context, vm=recipe.name)
    found = _with(recipe, str(_launcher(recipe, entry.path)))
    emulator, machine = found.machine.emulator, recipe.machine
    if emulator is None or emulator.version < machine.oldest_preferred_qemu:
        key, need = ("preferred_qemu", machine.preferred_qemu) if machine.preferred_qemu else ("qemu", machine.qemu)
        raise HostError(f"{_SUITE} has no QEMU {need}", where=recipe.name, mend=f"correct machine.{key}")
    return found


def _is_allowed(recipe: Recipe) -> bool:
    """Return True when the recipe needs no newer QEMU than the one that it has."""
    return recipe.machine.emulator is not None and recipe.machine.emulator.version >= recipe.machine.oldest_qemu


def _on_this_host(recipe: Recipe) -> Recipe:
    return _with(recipe, ARCHITECTURES[recipe.arch].qemu_machine.qemu)


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
