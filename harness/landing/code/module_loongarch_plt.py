"""The entries that the loader of a LoongArch module writes into .plt (emit_plt_entry(), asm/module.h, 6.12)."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator

from harness.landing.code.decode_loongarch import PLT_ENTRY

_ENTRY = struct.Struct("<4I")
ENTRY_SIZE = _ENTRY.size


def find_foreign_plt_offsets(content: bytes, allowed: Collection[int]) -> Iterator[int]:
    """Yield the offset of each entry that is neither empty nor a jump to an allowed address."""
    for offset in range(0, len(content), ENTRY_SIZE):
        piece = content[offset : offset + ENTRY_SIZE]
        if any(piece) and jump_target(piece) not in allowed:
            yield offset


def jump_target(piece: bytes) -> int | None:
    """Return where an entry jumps to; None for any other bytes."""
    if len(piece) < ENTRY_SIZE:
        return None
    words: tuple[int, int, int, int] = _ENTRY.unpack(piece)
    if any(word & mask != value for word, (value, mask) in zip(words, PLT_ENTRY, strict=True)):
        return None
    bits_31_12, bits_51_32, bits_63_52, low = words
    # JIRL has the lower 12 bits of the address, in words. It would extend a sign, but they never have one.
    return (
        (bits_63_52 >> 10 & 0xFFF) << 52
        | (bits_51_32 >> 5 & 0xFFFFF) << 32
        | (bits_31_12 >> 5 & 0xFFFFF) << 12
        | (low >> 10 & 0xFFFF) << 2
    )
