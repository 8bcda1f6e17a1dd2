"""The symbols that a kernel exports to modules, with their addresses, from its own tables (`__ksymtab`).

The compiler and linker write these tables for the module loader; kallsyms is not used. They confirm symbols that were
recovered from kallsyms. A row has the address of the symbol, of its name and of its namespace: as 32-bit distances from
the field where CONFIG_HAVE_ARCH_PREL32_RELOCATIONS is set, else as addresses (struct kernel_symbol,
include/linux/export.h, 5.10 to 6.9; kernel/module/internal.h later). s390 has 64-bit addresses. Where functions have
descriptors (CONFIG_HAVE_FUNCTION_DESCRIPTORS), a row has the address of the function's descriptor.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from harness.core.elf import Elf
from harness.core.elf_symbols_and_relocations import Section
from harness.landing.code.function_descriptors import function_descriptors

_TABLES, _STRINGS = ("__ksymtab", "__ksymtab_gpl"), "__ksymtab_strings"
_RELATIVE_FIELD = 4
_LONGEST_NAME = 512  # KSYM_NAME_LEN, include/linux/kallsyms.h
# Exported by every kernel that can register kprobes from a module; used to find the table in a file without sections.
_ANCHOR = "register_kprobe"
_FLAT = ".rodata"
_NAME = re.compile(rb"[\w.$]+")


def exported_symbols(vmlinux: Elf) -> Mapping[str, int]:
    """Map each exported name of a vmlinux to its link address; empty if the file has no readable table."""
    if _STRINGS in vmlinux.sections_by_name:
        descriptors = function_descriptors(vmlinux)
        return {name: descriptors.code_address(value) for name, value in _from_sections(vmlinux)}
    if found := dict(_from_symbols(vmlinux)):
        return found
    return dict(_from_flat_image(vmlinux)) if _FLAT in vmlinux.sections_by_name else {}


def _from_sections(vmlinux: Elf) -> Iterator[tuple[str, int]]:
    strings = vmlinux.sections_by_name[_STRINGS]
    names = vmlinux.section_bytes(_STRINGS, 0, strings.size)
    for name in _TABLES:
        table = vmlinux.sections_by_name.get(name)
        if table is None or not table.size:
            continue
        content = vmlinux.section_bytes(name, 0, table.size)
        found: list[tuple[str, int]] = []
        for form in _forms(vmlinux):
            found = found or list(_rows(content, table.address, names, strings.address, form))
        yield from found


class _Form(NamedTuple):
    """The form of a table: the size of a field, whether it is a distance from itself, and the byte order."""

    field: int
    relative: bool
    order: Literal["little", "big"]

    @property
    def row(self) -> int:
        """The size of a row, which has three fields."""
        return 3 * self.field

    def value(self, content: bytes, place: int, start: int) -> int:
        """The address in the field at a place of the content, which is at the address `start`."""
        field = int.from_bytes(content[place : place + self.field], self.order, signed=self.relative)
        return field + start + place if self.relative else field


def _forms(vmlinux: Elf) -> tuple[_Form, ...]:
    """The forms that a kernel of this word size may have."""
    order = vmlinux.byte_order
    absolute = _Form(vmlinux.word_bytes, False, order)
    return (_Form(_RELATIVE_FIELD, True, order), absolute)


def _rows(content: bytes, start: int, names: bytes, names_start: int, form: _Form) -> Iterator[tuple[str, int]]:
    """The rows of a table, up to the first whose name is not a string of `names`."""
    for place in range(0, len(content) - form.row + 1, form.row):
        text = _string(names, form.value(content, place + form.field, start) - names_start)
        if not text:
            return
        yield text, form.value(content, place, start)


def _from_symbols(vmlinux: Elf) -> Iterator[tuple[str, int]]:
    """The rows between the symbols of a table, if they have whole addresses, as in a flat image of RISC-V (6.12)."""
    form = struct.Struct(f"{vmlinux.struct_order}{ {4: 'II4x', 8: 'QQ8x'}[vmlinux.word_bytes] }")
    for name in _TABLES:
        first, last = (vmlinux.symbols_named(f"__{end}_{name}") for end in ("start", "stop"))
        if not (first and last):
            continue
        size = (last[0].address - first[0].address) // form.size * form.size
        rows = list(form.iter_unpack(vmlinux.bytes_at(first[0].address, size)))
        start, end = (function(row[1] for row in rows) for function in (min, max)) if rows else (0, 0)
        section = next((each for each in vmlinux.allocated_sections if each.address <= start < _end(each)), None)
        if section is None or not section.in_file or end >= _end(section):
            continue
        names = vmlinux.bytes_at(start, min(end + _LONGEST_NAME, _end(section)) - start)
        yield from ((text, value) for value, place in rows if (text := _string(names, place - start)))


def _end(section: Section) -> int:
    return section.address + section.size


def _string(content: bytes, position: int) -> str:
    """The string at a position, which may be the end of a longer one, because the linker merges them; "" for none."""
    if not 0 <= position < len(content):
        return ""
    found = _NAME.match(content, position)
    return found[0].decode() if found and content[found.end() : found.end() + 1] == b"\0" else ""


def _from_flat_image(vmlinux: Elf) -> Iterator[tuple[str, int]]:
    """Find the row of a known export in the read-only data of an image without tables, and read its neighbors."""
    data = vmlinux.sections_by_name[_FLAT]
    content = vmlinux.section_bytes(_FLAT, 0, data.size)
    strings = {match.start() for match in re.finditer(rb"%s\0" % _ANCHOR.encode(), content)}
    for form in _forms(vmlinux):
        for field in _fields_that_name(content, data.address, strings, form):
            row = start = field - form.field
            while start >= form.row and _name_in_row(content, start - form.row, data.address, form):
                start -= form.row
            if start != row or _name_in_row(content, row + form.row, data.address, form):
                yield from _rows(content[start:], data.address + start, content, data.address, form)
                return


def _fields_that_name(content: bytes, start: int, strings: set[int], form: _Form) -> Iterator[int]:
    """The places of fields with the address of one of these strings, which are offsets in the content."""
    letter = {4: "i" if form.relative else "I", 8: "Q"}[form.field]
    order = "<" if form.order == "little" else ">"
    words = struct.iter_unpack(order + letter, content[: len(content) // form.field * form.field])
    for index, (word,) in enumerate(words):
        place = index * form.field
        if place and (word + place if form.relative else word - start) in strings:
            yield place


def _name_in_row(content: bytes, row: int, start: int, form: _Form) -> str:
    """The name in a row of the content; "" if there is none."""
    if row + form.row > len(content):
        return ""
    return _string(content, form.value(content, row + form.field, start) - start)
