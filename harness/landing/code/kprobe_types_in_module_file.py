"""Which objects in a module's data are kprobes by their types: the module's DWARF, and the kernel's BTF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from elftools.dwarf.die import DIE
from elftools.elf.elffile import ELFFile

from harness.core.elf import BROKEN_FILE_ERRORS, Elf
from harness.core.errors import PinpointError
from harness.core.struct_fields import fields_by_struct
from harness.landing.code.kprobe_sites_in_module_file import WORDS_BEFORE_NAME, PossibleKprobe

_KPROBE = "kprobe"
_QUALIFIERS = ("DW_TAG_typedef", "DW_TAG_const_type", "DW_TAG_volatile_type")
_COMPOUNDS = ("DW_TAG_structure_type", "DW_TAG_union_type")
# Types are nested less deeply; damaged debug information may go in circles.
_DEEPEST = 32


def kprobes_by_type(elf: Elf, possible: Sequence[PossibleKprobe], vmlinux: Path) -> list[PossibleKprobe]:
    """Those of the objects that are a struct kprobe by their types.

    Without DWARF in the module only the layout of the struct is compared with the kernel's types. What no types
    describe is kept: a variable of a function, or a kernel without BTF.
    """
    if not possible:
        return []
    try:
        types = _types_of_variables(elf.path, {each.object_name for each in possible})
    except BROKEN_FILE_ERRORS:
        types = None
    if types is None:
        return list(possible) if _layout_agrees(elf, vmlinux) else []
    return [each for each in possible if _may_be_kprobe(types.get(each.object_name, []), each.offset_in_object)]


def _layout_agrees(elf: Elf, vmlinux: Path) -> bool:
    """Is symbol_name where find_possible_kprobes() looks for it? True without types."""
    try:
        return (
            fields_by_struct(vmlinux, (_KPROBE,))[_KPROBE]["symbol_name"].offset == WORDS_BEFORE_NAME * elf.word_bytes
        )
    except (PinpointError, KeyError):
        return True


def _types_of_variables(path: Path, names: set[str]) -> dict[str, list[DIE]] | None:
    """The types of the variables with these names, of each compilation unit; None without DWARF."""
    with path.open("rb") as stream:
        file = ELFFile(stream)
        if not file.has_dwarf_info(strict=True):
            return None
        found: dict[str, list[DIE]] = {}
        for unit in file.get_dwarf_info().iter_CUs():
            for entry in unit.get_top_DIE().iter_children():
                if entry.tag == "DW_TAG_variable" and _name(entry) in names and "DW_AT_type" in entry.attributes:
                    found.setdefault(_name(entry), []).append(entry.get_DIE_from_attribute("DW_AT_type"))
        return found


def _may_be_kprobe(types: Sequence[DIE], offset: int) -> bool:
    return not types or any(_is_kprobe_at(each, offset, _DEEPEST) for each in types)


def _is_kprobe_at(entry: DIE, offset: int, deepest: int) -> bool:
    """Does a type have a struct kprobe that begins at an offset?"""
    inner = entry.get_DIE_from_attribute("DW_AT_type") if "DW_AT_type" in entry.attributes else None
    if deepest == 0:
        return False
    if entry.tag in _QUALIFIERS:
        return inner is not None and _is_kprobe_at(inner, offset, deepest - 1)
    if entry.tag == "DW_TAG_array_type" and inner is not None:
        size = _size(inner)
        return size > 0 and _is_kprobe_at(inner, offset % size, deepest - 1)
    if entry.tag not in _COMPOUNDS:
        return False
    if _name(entry) == _KPROBE and entry.tag == _COMPOUNDS[0]:
        return offset == 0
    return any(
        _is_kprobe_at(member.get_DIE_from_attribute("DW_AT_type"), offset - start, deepest - 1)
        for member in entry.iter_children()
        if member.tag == "DW_TAG_member" and "DW_AT_type" in member.attributes and (start := _start(member)) <= offset
    )


def _start(member: DIE) -> int:
    place = member.attributes.get("DW_AT_data_member_location")
    return int(place.value) if place else 0


def _size(entry: DIE) -> int:
    """The size of a type in bytes, 0 if it is not known."""
    for _ in range(_DEEPEST):
        if "DW_AT_byte_size" in entry.attributes:
            return int(entry.attributes["DW_AT_byte_size"].value)
        if entry.tag not in _QUALIFIERS or "DW_AT_type" not in entry.attributes:
            break
        entry = entry.get_DIE_from_attribute("DW_AT_type")
    return 0


def _name(entry: DIE) -> str:
    found = entry.attributes.get("DW_AT_name")
    return found.value.decode(errors="replace") if found else ""
