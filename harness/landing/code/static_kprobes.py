"""Sites that a module will probe: the kprobes initialized in its data, by symbol name and offset."""

from __future__ import annotations

import re

from harness.core.elf import Elf, Relocation
from harness.landing.site import Site

# struct kprobe (include/linux/kprobes.h, 2.6.30 to 6.12): hlist, list, nmissed and addr, then symbol_name and offset.
_WORDS_BEFORE = 6
_NAME = re.compile(rb"([A-Za-z_.$][\w.$]*:)?[A-Za-z_.$][\w.$]*")
_DATA = ".data"
_OFFSET_BYTES = 4


def sites(elf: Elf) -> list[Site]:
    """The sites of all kprobes that are initialised data with a symbol's name in them.

    Kprobes that a module fills in when it is loaded are not among them.
    """
    changed = elf.relocations(_DATA)
    places = {each.offset for each in changed}
    size = elf.sections[_DATA].size if changed else 0
    found = []
    for each in changed:
        start = each.offset - _WORDS_BEFORE * elf.word_bytes
        name = _string(elf, each)
        whole = start >= 0 and each.offset + elf.word_bytes + _OFFSET_BYTES <= size
        if name and whole and not places & set(range(start, each.offset)):
            head = elf.section_bytes(_DATA, start, each.offset - start)
            offset = elf.section_bytes(_DATA, each.offset + elf.word_bytes, _OFFSET_BYTES)
            if not any(head) and each.offset + elf.word_bytes not in places:
                found.append(_site(name, int.from_bytes(offset, "little" if elf.little_endian else "big")))
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
    text, end, _ = elf.section_bytes(section.name, place, min(256, section.size - place)).partition(b"\0")
    return text.decode() if end and _NAME.fullmatch(text) else ""
