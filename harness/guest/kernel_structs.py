"""Structs of the guest's kernel, read from its memory with the offsets of their fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.core.struct_fields import Fields
from harness.guest.read_guest_memory import Memory


@dataclass(frozen=True)
class KernelStructs:
    """Reads structs, whose `fields` are given by the struct's name, and words of `word` bytes.

    A struct is read up to the end of its last field that is described, which is a word or nothing. All that read memory
    raise GuestError.
    """

    memory: Memory
    fields: Mapping[str, Fields]
    word: int
    byte_order: Literal["little", "big"]

    def content(self, address: int, struct: str) -> bytes:
        """Read one struct."""
        return self.memory.read(address, self.end(struct))

    def contents(self, addresses: Sequence[int], struct: str) -> list[bytes]:
        """Read a struct at each address."""
        return self.memory.read_many([(address, self.end(struct)) for address in addresses])

    def end(self, struct: str) -> int:
        """Return the offset of the byte after the last described field."""
        return max(field.offset for field in self.fields[struct].values()) + self.word

    def offset(self, struct: str, name: str) -> int:
        """Return the offset of a field in bytes."""
        return self.fields[struct][name].offset

    def field(self, content: bytes, struct: str, name: str) -> int:
        """Return a field of a struct's content, of the size of a word."""
        return self.word_in(content, self.offset(struct, name))

    def word_in(self, content: bytes, place: int) -> int:
        """Return the word at a place in a struct's content."""
        return self.number(content, place, self.word)

    def number(self, content: bytes, place: int, size: int) -> int:
        """Return an unsigned integer of `size` bytes."""
        return int.from_bytes(content[place : place + size], self.byte_order)

    def integer(self, address: int, size: int) -> int:
        """Read an unsigned integer of `size` bytes."""
        return self.number(self.memory.read(address, size), 0, size)

    def pointer(self, address: int) -> int:
        """Read a word."""
        return self.integer(address, self.word)

    def words(self, address: int, count: int) -> list[int]:
        """Read an array of words."""
        content = self.memory.read(address, self.word * count)
        return [self.word_in(content, self.word * number) for number in range(count)]
