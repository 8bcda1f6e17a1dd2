"""The compiler that builds modules for a given kernel: the one that configured it, if that is newer than the host's.

The headers then have options that an older compiler does not know.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.core.deadline import Deadline
from harness.core.process import run
from harness.images.given_kernel_host_programs import NEXT_SUITE, SUITE
from harness.images.vm_recipe import Kernel, Recipe

# As Kconfig sets it: 130200 is gcc 13.2.0. It is 0 for a kernel of clang (init/Kconfig, 6.1).
_VERSION = "CONFIG_GCC_VERSION"
# The newest compiler of SUITE.
_NEWEST = 14


def with_compiler(recipe: Recipe, config: Mapping[str, str]) -> Kernel:
    """Return the recipe's kernel with the compiler that a kernel with this configuration needs."""
    version = config.get(_VERSION, "0")
    needed = int(version) // 10000 if version.isdigit() else 0
    if needed <= _host_version(recipe.architecture.cross_prefix):
        return recipe.kernel
    suite = SUITE if needed <= _NEWEST else NEXT_SUITE
    return recipe.kernel.model_copy(update={"compiler": f"gcc-{needed}", "suite": suite})


def _host_version(cross_prefix: str) -> int:
    done = run([f"{cross_prefix}gcc", "-dumpversion"], deadline=Deadline.after(30))
    major = done.output.strip().partition(".")[0]
    return int(major) if major.isdigit() else 0
