"""The patch tables of a kernel whose ELF was recovered from kallsyms without symbols of data."""

from __future__ import annotations

from harness.core.elf import Elf
from harness.landing.code.patch_tables import ALTERNATIVES
from harness.landing.code.stripped_arm64_tables import FlatTables
from harness.landing.code.stripped_x86_32_tables import SectionTables

_FINDERS: dict[str, type[FlatTables] | type[SectionTables]] = {"EM_AARCH64": FlatTables, "EM_386": SectionTables}


def recovered_tables(elf: Elf) -> FlatTables | SectionTables | None:
    """Return the finder of a vmlinux's tables; None if the tables have symbols, or if no finder knows the machine."""
    finder = _FINDERS.get(elf.machine)
    return finder(elf) if finder and not elf.symbols_named(ALTERNATIVES) else None
