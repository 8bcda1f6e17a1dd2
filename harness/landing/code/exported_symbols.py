"""The symbols that a kernel exports to modules, with their addresses, from its own tables (`__ksymtab`).

The compiler and linker write these tables for the module loader; kallsyms is not used. They confirm symbols that were
recovered from kallsyms. A row has the address of the symbol, of its name and of its namespace: as 32-bit distances from
the field where CONFIG_HAVE_ARCH_PREL32_RELOCATIONS is set, else as addresses (struct kernel_symbol,
include/linux/export.h, 5.10 to 6.9; kernel/module/internal.h later).
"""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Iterator, Mapping

from harness.core.elf import Elf

_TABLES, _STRINGS = ("__ksymtab", "__ksymtab_gpl"), "__ksymtab_strings"
_FIELD = 4
_ROW = 3 * _FIELD
# Exported by every kernel that can register kprobes from a module; used to find the table in a file without sections.
_ANCHOR = "register_kprobe"
_FLAT = ".rodata"
_NAME = re.compile(rb"[\w.$]+")


def exported_symbols(vmlinux: Elf) -> Mapping[str, int]:
    """Map each exported name of a vmlinux to its link address; empty if the file has no readable table."""
    if _STRINGS in vmlinux.sections_by_name:
        return dict(_from_sections(vmlinux))
    return dict(_from_flat_image(vmlinux)) if _FLAT in vmlinux.sections_by_name else {}


def _from_sections(vmlinux: Elf) -> Iterator[tuple[str, int]]:
    strings = vmlinux.sections_by_name[_STRINGS]
    names = vmlinux.section_bytes(_STRINGS, 0, strings.size)
    for name in _TABLES:
        table = vmlinux.sections_by_name.get(name)
        if table is None or not table.size:
            continue
        content = vmlinux.section_bytes(name, 0, table.size)
        found = list(_rows(vmlinux, content, table.address, names, strings.address, relative=True))
        yield from found or _rows(vmlinux, content, table.address, names, strings.address, relative=False)


def _rows(
    vmlinux: Elf, content: bytes, start: int, names: bytes, names_start: int, *, relative: bool
) -> Iterator[tuple[str, int]]:
    """The rows of a table, up to the first whose name is not a string of `names`."""
    form = struct.Struct(f"{vmlinux.struct_order}{'ii' if relative else 'II'}4x")
    mask = (1 << 8 * vmlinux.word_bytes) - 1
    for index, (value, name) in enumerate(form.iter_unpack(content[: len(content) // _ROW * _ROW])):
        place = start + index * _ROW
        text = _string(names, (name + (place + _FIELD if relative else 0) & mask) - names_start)
        if not text:
            return
        yield text, value + (place if relative else 0) & mask


def _string(content: bytes, position: int) -> str:
    """The string at a position, which may be the end of a longer one, because the linker merges them; "" for none."""
    if not 0 <= position < len(content):
        return ""
    found = _NAME.match(content, position)
    return found[0].decode() if found and content[found.end() : found.end() + 1] == b"\0" else ""


def _from_flat_image(vmlinux: Elf) -> Iterator[tuple[str, int]]:
    """Find the row of a known export in the read-only data of an image without tables, and read its neighbors.

    Only little-endian kernels have such a file: with 32-bit distances (arm64), or with 32-bit addresses (ARM).
    """
    data = vmlinux.sections_by_name[_FLAT]
    content = vmlinux.section_bytes(_FLAT, 0, data.size)
    strings = {match.start() for match in re.finditer(rb"%s\0" % _ANCHOR.encode(), content)}
    relative = vmlinux.word_bytes > _FIELD
    words = array("i" if relative else "I", content[: len(content) // _FIELD * _FIELD])
    for index, word in enumerate(words):
        if index and (word + _FIELD * index if relative else word - data.address) in strings:
            row = _FIELD * (index - 1)
            start = row
            base = None if relative else data.address
            while start >= _ROW and _string_of_row(content, start - _ROW, base):
                start -= _ROW
            if start == row and not _string_of_row(content, row + _ROW, base):
                continue
            yield from _rows(vmlinux, content[start:], data.address + start, content, data.address, relative=relative)
            return


def _string_of_row(content: bytes, row: int, base: int | None) -> str:
    """The name in a row; `base` is the address of the content if the row holds an address, None if a distance."""
    name = row + _FIELD
    if name + _FIELD > len(content):
        return ""
    field = int.from_bytes(content[name : name + _FIELD], "little", signed=base is None)
    return _string(content, name + field if base is None else field - base)
