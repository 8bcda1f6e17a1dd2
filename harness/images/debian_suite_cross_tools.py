"""The cross compiler, binutils and C library of another Debian suite, if the host's suite has no such compiler.

The compiler finds its own parts, the assembler and the C library by their places relative to its own path, as it does
when it is installed. So the packages' layout is kept, and each program is replaced by a launcher.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from harness.core.architecture import Architecture
from harness.images import debian_suite_host_programs
from harness.images.build_context import BuildContext
from harness.images.debian_suite_host_programs import WantedSuitePrograms
from harness.images.vm_recipe import Recipe

_BINUTILS = ("ar", "as", "ld", "nm", "objcopy", "objdump", "ranlib", "readelf", "strip")


def obtain_cross_tools(recipe: Recipe, build_context: BuildContext) -> Path | None:
    """Return the directory with the cross compiler of a recipe's architecture; None if it is this host's own.

    `Architecture.cross_tools` becomes a link to that directory, which is in the store. Raises as
    `debian_suite_host_programs.obtain_launchers`.
    """
    architecture = recipe.architecture
    if _is_this_hosts(architecture):
        return None
    entry = debian_suite_host_programs.obtain_launchers(_wanted(architecture), build_context, vm=recipe.name)
    launchers = entry.path / debian_suite_host_programs.LAUNCHERS
    link = architecture.cross_tools
    if link.is_symlink() and link.readlink() == launchers:
        return launchers
    link.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=link.parent) as scratch:
        made = Path(scratch) / link.name
        made.symlink_to(launchers)
        made.replace(link)
    return launchers


def are_cross_tools_present(recipe: Recipe, build_context: BuildContext) -> bool:
    """Return True when nothing needs to be fetched for the cross compiler of a recipe's architecture."""
    architecture = recipe.architecture
    if _is_this_hosts(architecture):
        return True
    parts = debian_suite_host_programs.key_parts(_wanted(architecture), build_context)
    return build_context.store.present(debian_suite_host_programs.KIND, parts)


def _is_this_hosts(architecture: Architecture) -> bool:
    return not architecture.cross_tools_suite or architecture.native


def _wanted(architecture: Architecture) -> WantedSuitePrograms:
    gnu, compiler = architecture.gnu_triplet, architecture.cross_tools_compiler
    major, prefix = compiler.partition("-")[2], f"usr/bin/{gnu}-"
    return WantedSuitePrograms(
        suite=architecture.cross_tools_suite,
        packages=(f"{compiler}-{gnu}", f"libc6-dev-{architecture.debian or architecture.name}-cross"),
        kept_paths=(
            *(f"{prefix}{tool}" for tool in (compiler, *_BINUTILS)),
            *(f"usr/libexec/gcc-cross/{gnu}/{major}/{part}" for part in ("cc1", "collect2", "liblto_plugin.so")),
            f"usr/lib/gcc-cross/{gnu}/{major}",
            f"usr/{gnu}",
        ),
        # libc.so is a linker script with absolute paths, which the linker looks up below the system root.
        launcher_commands={
            f"{gnu}-gcc": (f"{prefix}{compiler}", '--sysroot={files}"'),
            **{f"{gnu}-{tool}": (f"{prefix}{tool}",) for tool in _BINUTILS},
        },
        launchers_in_place=True,
    )
