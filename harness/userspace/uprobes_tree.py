"""The kernel's own list of uprobes, uprobes_tree (kernel/events/uprobes.c), walked from outside the guest.

It has a node for each inode and offset that is probed, by whichever interface, and each node has its consumers. No file
of the guest shows it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.core.elf import Elf
from harness.core.errors import GuestError, PinpointError
from harness.core.struct_fields import fields_by_struct
from harness.guest.guest import Guest
from harness.guest.kernel_structs import KernelStructs
from harness.images.uprobe_struct_types import STRUCTS
from harness.landing.code.instructions import addresses_of_words_read
from harness.landing.layout import Layout

_TREE = "uprobes_tree"
# Functions that read the tree's root; kernels without symbols of data have these names (6.1, arm64 and i386).
# The compiler can make __find_uprobe() part of find_uprobe(), or the other way around.
_READERS = ("find_uprobe", "__find_uprobe", "vma_has_uprobes")
_FEWEST_READERS = 2
_MINOR_BITS = 20
# A walk that finds more goes in circles.
_MOST_NODES, _MOST_CONSUMERS = 4096, 64


@dataclass(frozen=True)
class UprobesTree:
    """What one walk found: for each file, as `DEV:INODE`, the offsets with the number of their consumers."""

    consumers_by_file: Mapping[str, Mapping[int, int]]

    def consumers_by_offset_in_file(self, identity: str) -> Mapping[int, int]:
        """The offsets of one file, with the number of their consumers."""
        return self.consumers_by_file.get(identity, {})


def read_uprobes_tree(guest: Guest, struct_types: Path) -> UprobesTree:
    """Read the whole tree; `struct_types` is the file that describes the kernel's structs (obtain_struct_types()).

    Raises GuestError when the memory is no tree, PinpointError when the file does not describe the structs, or when the
    kernel's file does not show the place of the tree.
    """
    return UprobesTree(_Walker.of(guest, struct_types).files())


@dataclass(frozen=True)
class _Walker:
    guest: Guest
    root: int
    structs: KernelStructs

    @classmethod
    def of(cls, guest: Guest, struct_types: Path) -> _Walker:
        """A walker of this guest's kernel. Raises PinpointError."""
        layout = Layout(guest)
        elf = layout.kernel
        fields = fields_by_struct(struct_types, STRUCTS)
        root = _linked_root(elf, guest) + layout.slide
        return cls(guest, root, KernelStructs(guest.memory, fields, elf.word_bytes, elf.byte_order))

    def files(self) -> dict[str, dict[int, int]]:
        """Every node of the tree. Raises GuestError."""
        found: dict[str, dict[int, int]] = {}
        identities: dict[int, str] = {}
        level = [each for each in [self.structs.pointer(self.root)] if each]
        count = 0
        while level:
            count += len(level)
            if count > _MOST_NODES:
                raise GuestError(f"{_TREE} has more than {_MOST_NODES} nodes", where=self.guest.name)
            nodes = self.structs.contents(level, "uprobe")
            for node, content in zip(level, nodes, strict=True):
                inode = self.structs.field(content, "uprobe", "inode")
                offset = self.structs.number(content, self.structs.offset("uprobe", "offset"), 8)
                if inode not in identities:
                    identities[inode] = self._identity(inode)
                found.setdefault(identities[inode], {})[offset] = self._consumers(node, content)
            sides = [self.structs.offset("rb_node", side) for side in ("rb_left", "rb_right")]
            level = [child for content in nodes for side in sides if (child := self.structs.word_in(content, side))]
        return found

    def _consumers(self, node: int, content: bytes) -> int:
        """How many consumers a node has: a chain of pointers until 6.11, a list since 6.12."""
        head = self.structs.fields["uprobe"]["consumers"]
        listed = head.nested_struct == "list_head"
        link = 0 if listed else self.structs.offset("uprobe_consumer", "next")
        end = node + head.offset if listed else 0
        following, count = self.structs.word_in(content, head.offset), 0
        while following != end:
            count += 1
            if count > _MOST_CONSUMERS or not following:
                raise GuestError(f"a uprobe's consumers are no list after {count}", where=self.guest.name)
            following = self.structs.pointer(following + link)
        return count

    def _identity(self, inode: int) -> str:
        """Device and number of an inode as stat(2) reports them: the kernel's dev_t has 20 bits of minor number."""
        number = self.structs.pointer(inode + self.structs.offset("inode", "i_ino"))
        block = self.structs.pointer(inode + self.structs.offset("inode", "i_sb"))
        device = self.structs.integer(block + self.structs.offset("super_block", "s_dev"), 4)
        major, minor = device >> _MINOR_BITS, device & (1 << _MINOR_BITS) - 1
        return f"{os.makedev(major, minor)}:{number}"


def _linked_root(elf: Elf, guest: Guest) -> int:
    """Where the tree's root is linked: by its symbol, or by the one word that the functions read that walk it."""
    named = elf.symbols_named(_TREE)
    if named:
        return named[0].address
    decoder = guest.architecture.kprobe_traits.decoder
    readers = [elf.function(name) for name in _READERS if elf.symbols_named(name)]
    read = [words for symbol in readers if (words := addresses_of_words_read(elf, symbol, decoder))]
    common = set.intersection(*read) if len(read) >= _FEWEST_READERS else set()
    if len(common) != 1:
        raise PinpointError(f"no symbol {_TREE}, and its readers name {len(common)} addresses", where=str(elf.path))
    return common.pop()
