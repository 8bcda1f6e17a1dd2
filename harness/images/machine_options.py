"""The virtual machine that a recipe names for its guests, and the versions of QEMU that it needs."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from harness.images.recipe_strings import CpuModel, Line
from harness.images.recipe_table import RecipeTable

_NEED = re.compile(r">= ?([0-9]{1,4})(?:\.([0-9]{1,4}))?")


class Emulator(RecipeTable):
    """The QEMU that runs a recipe's guests: its path or name, and its version."""

    program: str
    version: tuple[int, int]


class MachineOptions(RecipeTable):
    """The virtual machine of the guest.

    `boot` is `image` (QEMU starts the kernel file like a boot loader, with KASLR) or `pvh` (x86_64 only: QEMU starts
    the unpacked ELF at its PVH entry, without the decompressor and so without KASLR). `boot_seconds` is the time limit
    from QEMU's start to the first SSH answer, without the time in which a busy host does not run the guest. `qemu` is
    the required QEMU version, such as `>= 11`, and `preferred_qemu` one without which the VM runs too, such as a faster
    one. `cpu` is the CPU model of QEMU, with features as in `qemu64,+rdrand`, for a kernel that does not run on the
    architecture's; empty for that one. Under KVM the guest has the host's CPU instead. `emulator` is not a key of a
    recipe; `with_required_qemu` sets it.
    """

    memory_mib: int = Field(default=512, ge=64, le=1 << 20)
    cpus: int = Field(default=1, ge=1, le=255)
    cpu: CpuModel = ""
    boot: Literal["image", "pvh"] = "image"
    append: Line = ""
    boot_seconds: int = Field(default=180, ge=1, le=86400)
    qemu: str = ""
    preferred_qemu: str = ""
    emulator: Emulator | None = None

    @model_validator(mode="after")
    def _names_versions(self) -> MachineOptions:
        for key, need in (("qemu", self.qemu), ("preferred_qemu", self.preferred_qemu)):
            if need and not _NEED.fullmatch(need):
                raise ValueError(f"{key} {need!r} is not a version such as '>= 11' or '>= 9.2'")
        return self

    @property
    def oldest_qemu(self) -> tuple[int, int]:
        """The oldest QEMU that the recipe allows, major and minor; (0, 0) if it allows any."""
        return _version(self.qemu)

    @property
    def oldest_preferred_qemu(self) -> tuple[int, int]:
        """The oldest QEMU of the host that is used instead of one of a newer suite; not older than `oldest_qemu`."""
        return max(self.oldest_qemu, _version(self.preferred_qemu))


def _version(need: str) -> tuple[int, int]:
    found = _NEED.fullmatch(need)
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)
