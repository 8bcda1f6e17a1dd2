"""The context of every measurement: VMs, their images and guests, the directory of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.core import paths
from harness.core.events import Bus
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.vm_recipe import Recipe
from harness.matrix.guests.fleet import Fleet
from harness.report.run_dir import RunDirectory

LAUNCHER = paths.PROJECT / "pinpoint"


@dataclass
class BenchContext:
    """One run of the bench. `matrix_time_figures` maps a figure of the bench to the figures of its matrix runs."""

    recipes: Sequence[Recipe]
    runs: int
    directory: RunDirectory
    build_context: BuildContext
    bus: Bus
    fleet: Fleet
    matrix_time_figures: dict[str, list[Mapping[str, float]]] = field(default_factory=dict)

    @property
    def log_directory(self) -> Path:
        """The directory for the output of the measured commands."""
        return self.directory.path / "console"

    def obtain_image(self, vm: str) -> Image:
        """Return the VM's image, built if necessary. Raises what its build raises."""
        return self.fleet.image(vm)

    def ensure_frozen_guest(self, vm: str) -> None:
        """Make sure that the store has a frozen guest of the VM."""
        with self.fleet.start_fresh_guest(vm):
            pass
