"""The small programs of probes/loader that run in a guest: static, so that they run in any userland."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core import paths
from harness.core.architecture import Architecture
from harness.core.deadline import Deadline
from harness.core.events import ProgressStep
from harness.core.files import code_sha256, sha256_of_matching_files
from harness.images.build_context import BuildContext
from harness.images.kbuild import compiler_and_linker_versions, run_logged
from harness.images.vm_recipe import Recipe

KIND = "programs"

# The sources of each program, without their suffix.
PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "pinpoint_loader": (
        "loader",
        "step_output_and_gates",
        "open_section_files",
        "probe_module_parameters",
        "module_load_and_removal",
        "second_task_closes_section_files",
    ),
    "pinpoint_holder": ("holder", "bpf", "count_btf_types", "renamed_module_copies", "step_output_and_gates"),
    "pinpoint_reseed": ("reseed",),
    "pinpoint_stress": ("stress", "shared_outcome_counts", "step_output_and_gates", "open_section_files"),
}
FLAGS = ("-std=gnu11", "-Os", "-static", "-s", "-Wall", "-Wextra", "-Werror")
_BUILD_S = 120.0


def key_parts(recipe: Recipe, build_context: BuildContext) -> list[str]:  # noqa: ARG001 - ImagePartBuilder requires it
    """Return every input of the programs, for the store key; all kernels of an architecture share the programs."""
    sources = sha256_of_matching_files(_sources(), "*.[ch]")
    return [recipe.arch, sources, compiler_and_linker_versions(recipe.architecture), code_sha256(Path(__file__))]


def obtain(recipe: Recipe, build_context: BuildContext, parts: Sequence[str]) -> Mapping[str, Path]:
    """Return the path of every program, by name. Raises BuildError with the log when a program does not build."""
    job = _Job(recipe.architecture)
    entry = build_context.store.obtain(KIND, parts, vm=recipe.name, build=job.build)
    return {name: entry.path / name for name in PROGRAMS}


def _sources() -> Path:
    return paths.PROBES / "loader"


@dataclass(frozen=True)
class _Job:
    """Build of one architecture's programs into a store entry."""

    architecture: Architecture

    def build(self, entry: Path, _step: ProgressStep) -> Mapping[str, Any]:
        """Compile and link each program in one command; this takes a second or two and needs no compile slot."""
        log = paths.cache() / "logs" / f"programs-{self.architecture.name}.log"
        log.unlink(missing_ok=True)
        for name, sources in PROGRAMS.items():
            files = [_sources() / f"{source}.c" for source in sources]
            argv: list[str | Path] = [f"{self.architecture.cross_prefix}gcc", *FLAGS, "-o", entry / name, *files]
            run_logged(argv, f"building {name}", log, deadline=Deadline.after(_BUILD_S), nice=0)
        return {"bytes": {name: (entry / name).stat().st_size for name in PROGRAMS}}
