"""The memory of a guest, for tests of what reads it: words that a test puts at some addresses."""

from __future__ import annotations

import struct
from collections.abc import Sequence


class WordsInMemory:
    """Words by address; anything else is zero."""

    def __init__(self) -> None:
        self.content = bytearray(0x10000)

    def put(self, address: int, *words: int) -> None:
        struct.pack_into(f"<{len(words)}Q", self.content, address, *words)

    def read(self, address: int, size: int) -> bytes:
        return bytes(self.content[address : address + size])

    def read_many(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        return [self.read(*span) for span in spans]
