"""Makes a live patch module's file from an ordinary module's: sections `.klp.rela` and symbols `.klp.sym`.

A live patch refers to symbols that are not exported. The kernel resolves these relocations when the patched object is
loaded (Documentation/livepatch/module-elf-format.rst, kernel/livepatch/core.c, 6.1). klp-build makes such files since
6.19. Only 64-bit modules with RELA tables are supported: x86_64.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from harness.core.elf import Elf
from harness.core.errors import PinpointError

_RELA, _SYMBOL, _SECTION = struct.Struct("<QQq"), struct.Struct("<IBBHQQ"), struct.Struct("<IIQQQQIIQQ")
_SHT_RELA = 4
_SHF_ALLOC, _SHF_INFO_LINK, _SHF_RELA_LIVEPATCH = 0x2, 0x40, 0x00100000
_SHN_UNDEF, _SHN_LIVEPATCH = 0, 0xFF20
# The place of e_shoff, and of e_shnum, in the header of a 64-bit file.
_E_SHOFF, _E_SHNUM = 0x28, 0x3C
_ALIGNMENT = 8


class LivePatchSymbol(NamedTuple):
    """A symbol of an object: `vmlinux`, or a module.

    `position` counts the symbols of that name in the object from 1; 0 demands that there is only one.
    """

    object_name: str
    name: str
    position: int = 0

    def __str__(self) -> str:
        return f".klp.sym.{self.object_name}.{self.name},{self.position}"


class _Entry(NamedTuple):
    """A table entry that is moved: the section that it changes, and its bytes."""

    section: int
    content: bytes


def with_livepatch_relocations(elf: Elf, meant: Mapping[str, LivePatchSymbol]) -> bytes:
    """Return the module's file in which undefined symbols are replaced by symbols of other objects.

    `meant` maps the undefined symbols to what they stand for. Raises PinpointError if one is absent or unused.
    """
    content = bytearray(elf.path.read_bytes())
    with elf.path.open("rb") as stream:
        parsed = ELFFile(stream)
        table = parsed.get_section_by_name(".symtab")
        if not isinstance(table, SymbolTableSection) or parsed.elfclass != 64 or not parsed.little_endian:
            raise PinpointError("not a 64-bit module with symbols", where=str(elf.path))
        numbers = {symbol.name: number for number, symbol in enumerate(table.iter_symbols()) if symbol.name in meant}
        if missing := sorted(meant.keys() - numbers.keys()):
            raise PinpointError(f"has no symbol {missing[0]}", where=str(elf.path))
        names = [section.name for section in parsed.iter_sections()]
        start, strings = parsed["e_shoff"], parsed["e_shstrndx"]
    raw = [list(_SECTION.unpack_from(content, start + _SECTION.size * each)) for each in range(len(names))]
    symbols = names.index(".symtab")
    _rename(content, raw, symbols, {numbers[name]: str(each) for name, each in meant.items()})
    owners = {numbers[name]: each.object_name for name, each in meant.items()}
    for owner, entries in _taken(content, raw, owners).items():
        for section in sorted({entry.section for entry in entries}):
            moved = b"".join(entry.content for entry in entries if entry.section == section)
            name = _add_string(content, raw[strings], f".klp.rela.{owner}.{names[section]}")
            flags = _SHF_ALLOC | _SHF_INFO_LINK | _SHF_RELA_LIVEPATCH
            offset = _append(content, moved)
            raw.append([name, _SHT_RELA, flags, 0, offset, len(moved), symbols, section, _ALIGNMENT, _RELA.size])
    end = _append(content, b"".join(_SECTION.pack(*header) for header in raw))
    struct.pack_into("<Q", content, _E_SHOFF, end)
    struct.pack_into("<H", content, _E_SHNUM, len(raw))
    return bytes(content)


def _rename(content: bytearray, raw: list[list[int]], symbols: int, names: Mapping[int, str]) -> None:
    """Give symbols, by number, another name, and mark them as those of a live patch."""
    strings = raw[raw[symbols][6]]
    for number, name in names.items():
        place = raw[symbols][4] + _SYMBOL.size * number
        _, info, other, section, value, size = _SYMBOL.unpack_from(content, place)
        if section != _SHN_UNDEF:
            raise PinpointError(f"defines what {name} is to stand for")
        _SYMBOL.pack_into(content, place, _add_string(content, strings, name), info, other, _SHN_LIVEPATCH, value, size)


def _taken(content: bytearray, raw: list[list[int]], owners: Mapping[int, str]) -> Mapping[str, list[_Entry]]:
    """Replace the entries for these symbols in all tables by entries that do nothing; return them by their object."""
    found: defaultdict[str, list[_Entry]] = defaultdict(list)
    for header in raw:
        if header[1] != _SHT_RELA:
            continue
        for place in range(header[4], header[4] + header[5], _RELA.size):
            offset, info, _ = _RELA.unpack_from(content, place)
            owner = owners.get(info >> 32)
            if owner is not None:
                found[owner].append(_Entry(header[7], bytes(content[place : place + _RELA.size])))
                _RELA.pack_into(content, place, offset, 0, 0)
    if unused := sorted(set(owners.values()) - found.keys()):
        raise PinpointError(f"no relocation refers to a symbol of {unused[0]}")
    return found


def _add_string(content: bytearray, header: list[int], text: str) -> int:
    """Append a copy of a string table with one more string; return the string's place in it."""
    table = bytes(content[header[4] : header[4] + header[5]]) + text.encode() + b"\0"
    place = header[5]
    header[4], header[5] = _append(content, table), len(table)
    return place


def _append(content: bytearray, more: bytes) -> int:
    """Append bytes at an aligned place; return it."""
    content += bytes(-len(content) % _ALIGNMENT)
    place = len(content)
    content += more
    return place
