"""What every measurement stands on: the VMs, their images and guests, where results go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.core import paths
from harness.core.events import Bus
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.recipe import Recipe
from harness.matrix.guests.fleet import Fleet
from harness.report.run_dir import RunDirectory

LAUNCHER = paths.PROJECT / "pinpoint"


@dataclass
class Ground:
    """One run of the bench. `profiles` are the figures of each matrix run that it measured, by the bench's figure."""

    recipes: Sequence[Recipe]
    runs: int
    directory: RunDirectory
    build_context: BuildContext
    bus: Bus
    fleet: Fleet
    profiles: dict[str, list[Mapping[str, float]]] = field(default_factory=dict)

    @property
    def logs(self) -> Path:
        """Where what is started says what it says."""
        return self.directory.path / "console"

    def image(self, vm: str) -> Image:
        """The VM's image, built if need be. Raises what its build raises."""
        return self.fleet.image(vm)

    def freeze(self, vm: str) -> None:
        """See to it that there is a frozen guest of the VM: what is measured afterwards finds one."""
        with self.fleet.fresh(vm):
            pass
