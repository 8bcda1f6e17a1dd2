"""Guests for runs that are broken on purpose, with real QEMU and kernels of a few instructions; the store is unused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.guest.accelerator_canary_firmware import PSCI_SYSTEM_OFF, PSCI_SYSTEM_RESET, arm64_canary_program
from harness.images.image import Image
from harness.images.machine_options import MachineOptions
from harness.images.vm_recipe import Kernel, Recipe

PANIC = arm64_canary_program(b"Kernel panic - not syncing: no init\r\n", PSCI_SYSTEM_RESET)
RESET = arm64_canary_program(b"booting\r\n", PSCI_SYSTEM_RESET)
OFF = arm64_canary_program(b"booting\r\n", PSCI_SYSTEM_OFF)
# A branch to itself.
HANG = b"\x00\x00\x00\x14" * 4


@dataclass(frozen=True)
class Programs:
    """Makes images that run one of these programs instead of their recipe's kernel."""

    directory: Path

    def image(self, name: str, program: bytes, architecture: str = "arm64") -> Image:
        """Return the image of a VM of this name; only arm64 runs these programs."""
        kernel, initrd = self.directory / f"{name}.kernel", self.directory / "initrd"
        kernel.write_bytes(program)
        initrd.touch()
        recipe = Recipe(
            name=name,
            arch=architecture,
            describe="",
            kernel=Kernel(source="debian-binary", package="none"),
            machine=MachineOptions(memory_mib=64),
        )
        return Image(
            recipe=recipe,
            key="",
            kernel=kernel,
            vmlinux=kernel,
            initrd=initrd,
            modules={},
            release="",
            build_id="",
            config={},
            facts={},
        )
