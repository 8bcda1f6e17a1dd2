"""Sites that a module will probe: the kprobes initialized in its data, by symbol name and offset."""

from __future__ import annotations

import re

from harness.core.elf import Elf, Relocation
from harness.landing.site import Site

# struct kprobe (include/linux/kprobes.h, 2.6.30 to 6.12): hlist, list, nmissed and addr, then symbol_name and offset.
_WORDS_BEFORE = 6
_WORDS = _WORDS_BEFORE + 2
_OFFSET_BYTES = 4
_NAME = re.compile(rb"([A-Za-z_.$][\w.$]*:)?[A-Za-z_.$][\w.$]*")
_DATA = re.compile(r"\.data(?!\.\.percpu)")


def sites(elf: Elf) -> list[Site]:
    """The sites of what looks like a kprobe that is initialized data with a symbol's name in it.

    Relocations and the sizes of symbols decide: a pointer to a name stands where struct kprobe has it, in an object
    that is large enough, behind words that nothing initializes. It is a hint, no more. A module that fills its kprobes
    in when it is loaded means more than this shows, and a structure of another type can look the same.
    """
    names = [name for name in elf.sections if _DATA.match(name) and name not in elf.duplicated]
    return [site for name in names for site in _in_section(elf, name)]


def _in_section(elf: Elf, name: str) -> list[Site]:
    changed = elf.relocations(name)
    section = elf.sections[name]
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
    """The identifier a pointer points at, "" when that is no identifier."""
    section = elf.sections.get(pointer.symbol.section)
    place = pointer.symbol.address + pointer.addend
    if section is None or section.executable or not 0 <= place < section.size:
        return ""
    if section.name in elf.duplicated:
        return ""
    text, end, _ = elf.section_bytes(section.name, place, min(256, section.size - place)).partition(b"\0")
    return text.decode() if end and _NAME.fullmatch(text) else ""
