"""The compiler of another Debian suite, for kernels that were configured with a newer compiler than this host's.

The headers of such a kernel require options that an older compiler does not have. Only the compiler proper is from the
other suite; assembler and linker are this host's, as for all other modules.
"""

from __future__ import annotations

from pathlib import Path

from harness.images import debian_suite_host_programs
from harness.images.build_context import BuildContext
from harness.images.debian_suite_host_programs import WantedSuitePrograms
from harness.images.vm_recipe import Recipe

_PROPER = "cc1"


def key_parts(recipe: Recipe, build_context: BuildContext) -> list[str]:
    """Return the inputs of the compiler that a recipe names, for store keys; empty if it names none."""
    return debian_suite_host_programs.key_parts(_wanted(recipe), build_context) if _is_named(recipe) else []


def obtain_compiler(recipe: Recipe, build_context: BuildContext) -> Path | None:
    """Return the path of a recipe's compiler; None if the recipe names none.

    Raises as `debian_suite_host_programs.obtain_launchers`.
    """
    if not _is_named(recipe):
        return None
    entry = debian_suite_host_programs.obtain_launchers(_wanted(recipe), build_context, vm=recipe.name)
    return entry.path / debian_suite_host_programs.LAUNCHERS / recipe.kernel.compiler


def _is_named(recipe: Recipe) -> bool:
    """Return True if the recipe names a compiler of its suite; a clang is the host's."""
    return recipe.kernel.compiler.startswith("gcc")


def _wanted(recipe: Recipe) -> WantedSuitePrograms:
    architecture, compiler = recipe.architecture, recipe.kernel.compiler
    major = compiler.partition("-")[2]
    gnu = architecture.gnu_triplet
    # Debian has a separate directory for cross compilers.
    home = f"{'gcc' if architecture.native else 'gcc-cross'}/{gnu}/{major}"
    proper = f"usr/libexec/{home}/{_PROPER}"
    program = f"usr/bin/{gnu}-{compiler}"
    return WantedSuitePrograms(
        suite=recipe.kernel.suite.partition("-")[0],
        packages=(f"{compiler}-{gnu.replace('_', '-')}",),
        kept_paths=(program, proper, f"usr/lib/{home}/include"),
        # -B: the directory that the driver searches first for its other programs, here the launchers' directory.
        launcher_commands={
            compiler: (program, "-B", '{files}/../bin/"', *architecture.suite_compiler_flags),
            _PROPER: (proper,),
        },
        host_launchers={tool: f"{architecture.cross_prefix}{tool}" for tool in ("as", "ld")},
    )
