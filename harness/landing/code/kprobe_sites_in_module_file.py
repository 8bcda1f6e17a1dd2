"""Finds the sites that a module will probe: kprobes with symbol name and offset that are initialized in its data."""

from __future__ import annotations

import re

from harness.core.elf import Elf, Relocation
from harness.core.elf_pointed_text import pointed_text
from harness.landing.site import Site

# Words before symbol_name and offset in struct kprobe: hlist, list, nmissed, addr (include/linux/kprobes.h, 2.6.30 to
# 6.12).
_WORDS_BEFORE = 6
_WORDS = _WORDS_BEFORE + 2
_OFFSET_BYTES = 4
_NAME = re.compile(rb"([A-Za-z_.$][\w.$]*:)?[A-Za-z_.$][\w.$]*")
_DATA = re.compile(r"\.data(?!\.\.percpu)")


def find_kprobe_sites(elf: Elf) -> list[Site]:
    """The sites of objects in a module's data that look like a kprobe initialized with a symbol name.

    Relocations and symbol sizes decide: the object is large enough, a pointer to a name is at the offset of
    symbol_name, and the words before it are not initialized. The result is only a hint. It lacks kprobes that the
    module fills in at run time, and it can include a structure of another type that looks the same.
    """
    names = [name for name in elf.sections_by_name if _DATA.match(name) and name not in elf.duplicated_section_names]
    return [site for name in names for site in _in_section(elf, name)]


def _in_section(elf: Elf, name: str) -> list[Site]:
    changed = elf.relocations(name)
    section = elf.sections_by_name[name]
    if not changed or not section.in_file:
        return []
    places = {each.offset for each in changed}
    objects = [(s.address, s.address + s.size) for s in elf.symbols if s.section == name and s.kind == "object"]
    found = []
    for each in changed:
        start = each.offset - _WORDS_BEFORE * elf.word_bytes
        end = start + _WORDS * elf.word_bytes
        if start < 0 or end > section.size or not any(first <= start and end <= last for first, last in objects):
            continue
        text = _string(elf, each)
        if text and not places & set(range(start, each.offset)) and each.offset + elf.word_bytes not in places:
            head = elf.section_bytes(name, start, each.offset - start)
            offset = elf.section_bytes(name, each.offset + elf.word_bytes, _OFFSET_BYTES)
            if not any(head):
                found.append(_site(text, int.from_bytes(offset, elf.byte_order)))
    return found


def _site(name: str, offset: int) -> Site:
    module, _, symbol = name.rpartition(":")
    return Site(symbol, offset, module)


def _string(elf: Elf, pointer: Relocation) -> str:
    """The identifier that a pointer points to; "" if it points to no identifier."""
    text = pointed_text(elf, pointer)
    return text.decode() if _NAME.fullmatch(text) else ""
