"""The entry of the architecture table with what a recipe needs: a QEMU, a CPU model, and LLVM instead of gcc."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from harness.core.architecture import Architecture
from harness.core.architecture_table import ARCHITECTURES

_CLANG = "clang"


@cache
def architecture_for_recipe(
    name: str, *, compiler: str, cpu: str, qemu_program: str, qemu_version: tuple[int, int]
) -> Architecture:
    """Return the entry of this name for a compiler, a CPU model and a QEMU; cases ask for it once for each symbol.

    `compiler` is a recipe's: `clang-19`, or any other name for gcc. `cpu` and `qemu_program` are empty for those of the
    table.
    """
    row = ARCHITECTURES[name]
    if qemu_program:
        row = replace(row, qemu_machine=row.qemu_machine.for_qemu(qemu_program, qemu_version))
    if cpu:
        row = replace(row, qemu_machine=replace(row.qemu_machine, cpu=cpu))
    return replace(row, llvm_suffix=compiler.removeprefix(_CLANG)) if compiler.startswith(_CLANG) else row
