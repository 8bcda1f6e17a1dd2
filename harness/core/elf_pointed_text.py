"""Texts that pointers in the data of a module's file point to, by their relocations."""

from __future__ import annotations

from harness.core.elf import Elf
from harness.core.elf_symbols_and_relocations import Relocation

_LONGEST = 256


def pointed_text(elf: Elf, pointer: Relocation) -> bytes:
    """Return the bytes up to the zero that ends the text, of at most 256; empty if the pointer points to no text."""
    section = elf.sections_by_name.get(pointer.symbol.section)
    place = pointer.symbol.address + pointer.addend
    if section is None or section.executable or not 0 <= place < section.size:
        return b""
    if section.name in elf.duplicated_section_names:
        return b""
    text, end, _ = elf.section_bytes(section.name, place, min(_LONGEST, section.size - place)).partition(b"\0")
    return text if end else b""
