"""Finds the sites that a module will probe: kprobes with symbol name and offset that are initialized in its data."""

from __future__ import annotations

import re
from typing import NamedTuple

from harness.core.elf import Elf, Relocation
from harness.core.elf_pointed_text import pointed_text
from harness.landing.site import Site

# Words before symbol_name and offset in struct kprobe: hlist, list, nmissed, addr (include/linux/kprobes.h, 2.6.30 to
# 6.12).
WORDS_BEFORE_NAME = 6
_WORDS = WORDS_BEFORE_NAME + 2
_OFFSET_BYTES = 4
_NAME = re.compile(rb"([A-Za-z_.$][\w.$]*:)?[A-Za-z_.$][\w.$]*")
_DATA = re.compile(r"\.data(?!\.\.percpu)")


class PossibleKprobe(NamedTuple):
    """What looks like a kprobe in the data of a module: its site, and the object that it is in, with the offset."""

    site: Site
    object_name: str
    offset_in_object: int


def find_kprobe_sites(elf: Elf) -> list[Site]:
    """The sites of what looks like a kprobe in a module's data."""
    return [each.site for each in find_possible_kprobes(elf)]


def find_possible_kprobes(elf: Elf) -> list[PossibleKprobe]:
    """The objects of a module's data that look like a kprobe initialized with a symbol name.

    Relocations and symbol sizes decide: the object is large enough, a pointer to a name is at the offset of
    symbol_name, and the words before it are not initialized. The result is only a hint. It lacks kprobes that the
    module fills in at run time, and it can include a structure of another type that looks the same:
    kprobe_types_in_module_file.py distinguishes them where there is debug information.
    """
    names = [name for name in elf.sections_by_name if _DATA.match(name) and name not in elf.duplicated_section_names]
    return [found for name in names for found in _in_section(elf, name)]


def _in_section(elf: Elf, name: str) -> list[PossibleKprobe]:
    changed = elf.relocations(name)
    section = elf.sections_by_name[name]
    if not changed or not section.in_file:
        return []
    places = {each.offset for each in changed}
    objects = [s for s in elf.symbols if s.section == name and s.kind == "object"]
    found = []
    for each in changed:
        start = each.offset - WORDS_BEFORE_NAME * elf.word_bytes
        end = start + _WORDS * elf.word_bytes
        around = [s for s in objects if s.address <= start and end <= s.address + s.size]
        if start < 0 or end > section.size or not around:
            continue
        text = _string(elf, each)
        if text and not places & set(range(start, each.offset)) and each.offset + elf.word_bytes not in places:
            head = elf.section_bytes(name, start, each.offset - start)
            offset = elf.section_bytes(name, each.offset + elf.word_bytes, _OFFSET_BYTES)
            if not any(head):
                site = _site(text, int.from_bytes(offset, elf.byte_order))
                found.append(PossibleKprobe(site, around[0].name, start - around[0].address))
    return found


def _site(name: str, offset: int) -> Site:
    module, _, symbol = name.rpartition(":")
    return Site(symbol, offset, module)


def _string(elf: Elf, pointer: Relocation) -> str:
    """The identifier that a pointer points to; "" if it points to no identifier."""
    text = pointed_text(elf, pointer)
    return text.decode() if _NAME.fullmatch(text) else ""
