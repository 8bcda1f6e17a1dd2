"""The entry of the architecture table with the programs that a recipe needs: a QEMU, and LLVM instead of gcc."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from harness.core.architecture import Architecture
from harness.core.architecture_table import ARCHITECTURES

_CLANG = "clang"


@cache
def architecture_with_programs(
    name: str, compiler: str, qemu_program: str, qemu_version: tuple[int, int]
) -> Architecture:
    """Return the entry of this name for a compiler and a QEMU; cases ask for it once for each symbol.

    `compiler` is a recipe's: `clang-19`, or any other name for gcc. `qemu_program` is empty for the QEMU of the table.
    """
    row = ARCHITECTURES[name]
    if qemu_program:
        row = replace(row, qemu_machine=row.qemu_machine.for_qemu(qemu_program, qemu_version))
    return replace(row, llvm_suffix=compiler.removeprefix(_CLANG)) if compiler.startswith(_CLANG) else row
