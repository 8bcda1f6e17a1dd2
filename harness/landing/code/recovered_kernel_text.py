"""Text and image of a kernel whose ELF file was recovered from a packaged image; its tables are searched for there."""

from __future__ import annotations

from typing import NamedTuple

from harness.core.elf import Elf

_TEXTS = (("_stext", "_etext"), ("_sinittext", "_einittext"))


class RecoveredText(NamedTuple):
    """Start and end of each part of the text, and the bytes from `base`, the first start, to the end of .data."""

    texts: tuple[tuple[int, int], ...]
    base: int
    image: bytes


def recovered_text(elf: Elf, exit_text_bytes: int) -> RecoveredText:
    """Return the text of a recovered kernel.

    .exit.text follows the text that is freed after boot, and kallsyms has no symbol of it; `exit_text_bytes` is an
    upper limit of its size.
    """
    named = [(elf.symbols_named(begin)[0].address, elf.symbols_named(end)[0].address) for begin, end in _TEXTS]
    freed_end = named[-1][1]
    data, base = elf.sections_by_name[".data"], named[0][0]
    image = elf.bytes_at(base, data.address + data.size - base)
    return RecoveredText((*named, (freed_end, freed_end + exit_text_bytes)), base, image)
