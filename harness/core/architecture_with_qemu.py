"""The entry of the architecture table with the QEMU that was found on the host."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from harness.core.architecture import Architecture
from harness.core.architecture_table import ARCHITECTURES


@cache
def architecture_with_qemu(name: str, program: str, version: tuple[int, int]) -> Architecture:
    """Return the entry of this name for a QEMU of this path and version; cases ask for it once for each symbol."""
    row = ARCHITECTURES[name]
    return replace(row, qemu_machine=row.qemu_machine.for_qemu(program, version))
