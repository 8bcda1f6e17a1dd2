"""Finds the patch tables of a 32-bit x86 kernel that has no symbols for them.

Debian's 686-pae kernel has no KALLSYMS_ALL, so an ELF recovered from it has text symbols only. Three tables have
sections of their own (arch/x86/kernel/vmlinux.lds.S, 6.1). The jump labels and the ftrace sites are inside larger
sections. They are found by the form of their rows: a row of the ftrace sites points to a call of __fentry__.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping

from harness.core.elf import Elf
from harness.landing.code.patch_tables import ALTERNATIVES, FTRACE, JUMPS
from harness.landing.code.table_row_search import RowRange

_SECTIONS = {
    ALTERNATIVES: ".altinstructions",
    "__parainstructions": ".parainstructions",
    "__smp_locks": ".smp_locks",
}
# JUMP_TABLE_DATA and MCOUNT_REC, include/asm-generic/vmlinux.lds.h, 6.1.
_HOLDERS = {JUMPS: ".rodata", FTRACE: ".init.data"}
# Fewer consecutive rows are not a table.
_LEAST = 256
_CALL = 0xE8
# A jump near and short: the assembler selects the form of a branch that is taken by default.
_JUMPS = (b"\xe9", b"\xeb")
# BYTES_NOP5 of 32-bit x86 (arch/x86/include/asm/nops.h, 6.1).
_NOP = bytes.fromhex("3e8d742600")
_CALL_BYTES = 5


class X86TableFinder:
    """The tables of a recovered 32-bit x86 kernel; it has no dynamic relocations (`relative`)."""

    def __init__(self, elf: Elf) -> None:
        self._elf = elf
        self._code_sections = [
            (section.address, elf.section_bytes(section.name, 0, section.size))
            for section in elf.sections_by_name.values()
            if section.executable and section.allocated
        ]
        self._fentry = {symbol.address for symbol in elf.symbols_named("__fentry__")}
        self.relative: Mapping[int, int] = {}

    def find_row_ranges_of_table(self, table: str) -> list[RowRange]:
        """The ranges of a table, named by the symbol that would be at its start."""
        if table in _SECTIONS:
            section = self._elf.sections_by_name.get(_SECTIONS[table])
            return [RowRange(section.address, section.address + section.size)] if section else []
        form, fits = {
            JUMPS: (struct.Struct("<iii"), self._is_jump),
            FTRACE: (struct.Struct("<I"), self._is_traced),
        }[table]
        found = list(self._runs(table, form, fits))
        return [max(found, key=lambda each: each.end - each.start)] if found else []

    def _runs(
        self, table: str, form: struct.Struct, fits: Callable[[int, tuple[int, ...]], bool]
    ) -> Iterator[RowRange]:
        """Every run of at least _LEAST rows that fit."""
        section = self._elf.sections_by_name[_HOLDERS[table]]
        content = self._elf.section_bytes(section.name, 0, section.size)
        for phase in range(0, form.size, 4):
            start = place = phase
            while place <= len(content):
                inside = place + form.size <= len(content)
                if not inside or not fits(section.address + place, form.unpack_from(content, place)):
                    if place - start >= _LEAST * form.size:
                        yield RowRange(section.address + start, section.address + place)
                    start = place + form.size
                place += form.size

    def _is_traced(self, _: int, row: tuple[int, ...]) -> bool:
        code = self._code(row[0])
        if len(code) < _CALL_BYTES or code[0] != _CALL:
            return False
        return (row[0] + _CALL_BYTES + struct.unpack_from("<i", code, 1)[0]) & 0xFFFFFFFF in self._fentry

    def _is_jump(self, place: int, row: tuple[int, ...]) -> bool:
        site, target = place + row[0], place + 4 + row[1]
        code = self._code(site)
        return (code == _NOP or code.startswith(_JUMPS)) and self._code(target) != b""

    def _code(self, address: int) -> bytes:
        for start, content in self._code_sections:
            if start <= address < start + len(content):
                return content[address - start : address - start + _CALL_BYTES]
        return b""
