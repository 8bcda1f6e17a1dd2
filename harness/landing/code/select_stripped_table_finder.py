"""The patch tables of a kernel whose ELF was recovered from kallsyms without symbols of data."""

from __future__ import annotations

from harness.core.elf import Elf
from harness.landing.code.patch_tables import MACHINES
from harness.landing.code.stripped_arm64_tables import Arm64TableFinder
from harness.landing.code.stripped_arm_tables import ArmTableFinder
from harness.landing.code.stripped_mips_tables import MipsTableFinder
from harness.landing.code.stripped_s390_tables import S390TableFinder
from harness.landing.code.stripped_x86_32_tables import X86TableFinder

TableFinder = Arm64TableFinder | ArmTableFinder | MipsTableFinder | S390TableFinder | X86TableFinder
_FINDERS: dict[str, type[TableFinder]] = {
    "EM_AARCH64": Arm64TableFinder,
    "EM_ARM": ArmTableFinder,
    "EM_MIPS": MipsTableFinder,
    "EM_S390": S390TableFinder,
    "EM_386": X86TableFinder,
}


def select_table_finder(elf: Elf) -> TableFinder | None:
    """Return the finder of a vmlinux's tables; None if the tables have symbols, or if no finder knows the machine."""
    finder = _FINDERS.get(elf.machine)
    return finder(elf) if finder and not elf.symbols_named(MACHINES[elf.machine].tables[0].begin_symbol) else None
