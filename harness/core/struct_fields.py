"""Fields of the kernel's structs, from BTF or from DWARF in a vmlinux; and the names of functions in BTF."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from elftools.dwarf.die import DIE
from elftools.elf.elffile import ELFFile

from harness.core.elf import BROKEN_FILE_ERRORS
from harness.core.errors import PinpointError

# struct btf_header: magic, version, flags, its own length; then type_off, type_len, str_off, str_len
# (Documentation/bpf/btf.rst, 6.1). A kernel without symbols of its sections has this stretch of bytes once.
_BEGINS = {"little": bytes.fromhex("9feb010018000000"), "big": bytes.fromhex("eb9f010000000018")}
_STRUCT, _UNION, _FUNCTION = 4, 5, 12
# Bytes that follow struct btf_type, by its kind: a fixed number, and a number for each of its elements.
_FOLLOW = {1: (4, 0), 3: (12, 0), 4: (0, 12), 5: (0, 12), 6: (0, 8), 13: (0, 8), 14: (4, 0), 15: (0, 12)}
_FOLLOW |= {17: (4, 0), 19: (0, 12)}
_LAST_KIND = 19
_BITS = 0xFFFFFF


class FieldOffsetAndStruct(NamedTuple):
    """One field: its offset in the struct, in bytes, and the struct that it is, "" for anything else."""

    offset: int
    nested_struct: str


Fields = Mapping[str, FieldOffsetAndStruct]


@lru_cache(maxsize=4)
def fields_by_struct(vmlinux: Path, structs: tuple[str, ...]) -> Mapping[str, Fields]:
    """The fields of each struct by name, those of anonymous structs and unions in it too.

    They come from the kernel's BTF, or, without BTF, from DWARF. Raises PinpointError when the file has neither, and
    when a struct is in none.
    """
    with vmlinux.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            table = Btf.find_in_vmlinux(content)
            found = {name: table.fields_of_struct(name) for name in structs} if table else _by_dwarf(stream, structs)
        except BROKEN_FILE_ERRORS as error:
            raise PinpointError(f"its types cannot be read ({error})", where=str(vmlinux)) from None
    missing = [name for name in structs if not found.get(name)]
    if missing:
        what = f"no BTF and no DWARF describes struct {missing[0]}"
        raise PinpointError(what, where=str(vmlinux), mend="use a kernel with CONFIG_DEBUG_INFO_BTF")
    return found


def function_names_in_btf(content: bytes | mmap.mmap) -> frozenset[str]:
    """The names of the functions in the BTF of a vmlinux with this content; empty if it has none, or damaged BTF.

    BTF has no addresses of functions (Documentation/bpf/btf.rst, 6.1).
    """
    try:
        table = Btf.find_in_vmlinux(content)
        return table.function_names() if table else frozenset()
    except BROKEN_FILE_ERRORS:
        return frozenset()


class _Type(NamedTuple):
    name: int
    kind: int
    elements: int
    bitfields: bool
    size_or_type: int
    follows: int
    """Where its elements are in the type section."""


class Btf:
    """The type information that a kernel has of itself."""

    def __init__(self, types: bytes, strings: bytes, order: str) -> None:
        self._types = types
        self._strings = strings
        self._order = order
        self._all: Sequence[_Type] = [_Type(0, 0, 0, False, 0, 0), *self._parsed()]

    @classmethod
    def find_in_vmlinux(cls, content: bytes | mmap.mmap) -> Btf | None:
        """The BTF in a vmlinux, found by its header: kernels recovered from flat images have no section of it."""
        for order, begin in (("<", _BEGINS["little"]), (">", _BEGINS["big"])):
            place = content.find(begin)
            while place >= 0:
                types, types_size, strings, strings_size = struct.unpack_from(f"{order}IIII", content, place + 8)
                first = place + 24
                if types == 0 and strings == types_size and first + strings + strings_size <= len(content):
                    end = first + types_size
                    return cls(content[first:end], content[end : end + strings_size], order)
                place = content.find(begin, place + 1)
        return None

    def _parsed(self) -> Iterator[_Type]:
        place = 0
        header = struct.Struct(f"{self._order}III")
        while place < len(self._types):
            name, info, size = header.unpack_from(self._types, place)
            kind, elements = info >> 24 & 0x1F, info & 0xFFFF
            if not 0 < kind <= _LAST_KIND:
                raise ValueError(f"BTF has a type of kind {kind}")
            place += header.size
            yield _Type(name, kind, elements, bool(info >> 31), size, place)
            fixed, each = _FOLLOW.get(kind, (0, 0))
            place += fixed + each * elements

    def function_names(self) -> frozenset[str]:
        """The names of all functions."""
        return frozenset(self._text(each.name) for each in self._all if each.kind == _FUNCTION)

    def fields_of_struct(self, name: str) -> Fields:
        """The fields of a struct; nothing when there is no such struct."""
        wanted = [each for each in self._all if each.kind == _STRUCT and self._text(each.name) == name]
        return dict(self._fields(wanted[0], 0)) if wanted else {}

    def _fields(self, type_: _Type, base: int) -> Iterator[tuple[str, FieldOffsetAndStruct]]:
        for number in range(type_.elements):
            place = type_.follows + 12 * number
            name, of_type, bits = struct.unpack_from(f"{self._order}III", self._types, place)
            offset = base + (bits & _BITS if type_.bitfields else bits) // 8
            inner = self._all[of_type]
            if name:
                yield (
                    self._text(name),
                    FieldOffsetAndStruct(offset, self._text(inner.name) if inner.kind == _STRUCT else ""),
                )
            elif inner.kind in (_STRUCT, _UNION):
                yield from self._fields(inner, offset)

    def _text(self, place: int) -> str:
        return self._strings[place : self._strings.index(b"\0", place)].decode(errors="replace")


def _by_dwarf(stream: object, structs: Sequence[str]) -> dict[str, Fields]:
    elf = ELFFile(stream)  # type: ignore[arg-type]
    found: dict[str, Fields] = {}
    if not elf.has_dwarf_info():
        return found
    for unit in elf.get_dwarf_info().iter_CUs():
        for entry in unit.get_top_DIE().iter_children():
            if entry.tag == "DW_TAG_structure_type" and "DW_AT_declaration" not in entry.attributes:
                name = _name(entry)
                if name in structs and name not in found:
                    found[name] = dict(_dwarf_fields(entry, 0))
    return found


def _dwarf_fields(entry: DIE, base: int) -> Iterator[tuple[str, FieldOffsetAndStruct]]:
    for child in entry.iter_children():
        if child.tag != "DW_TAG_member" or "DW_AT_type" not in child.attributes:
            continue
        place = child.attributes.get("DW_AT_data_member_location")
        offset = base + (int(place.value) if place else 0)
        inner = child.get_DIE_from_attribute("DW_AT_type")
        if "DW_AT_name" in child.attributes:
            yield (
                _name(child),
                FieldOffsetAndStruct(offset, _name(inner) if inner.tag == "DW_TAG_structure_type" else ""),
            )
        else:
            yield from _dwarf_fields(inner, offset)


def _name(entry: DIE) -> str:
    found = entry.attributes.get("DW_AT_name")
    return found.value.decode(errors="replace") if found else ""
