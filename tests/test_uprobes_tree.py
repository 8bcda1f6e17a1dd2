"""The walk of uprobes_tree over memory laid out as kernels of 6.1 and 6.12 have it."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import cast

import pytest
from words_in_memory import WordsInMemory

from harness.core.errors import GuestError
from harness.core.struct_fields import FieldOffsetAndStruct
from harness.guest.guest import Guest
from harness.guest.kernel_structs import KernelStructs
from harness.guest.read_guest_memory import Memory
from harness.userspace.uprobes_tree import _Walker

ROOT, INODE, BLOCK = 0x1000, 0x8000, 0x9000
NODES = (0x2000, 0x3000, 0x4000)


def walker(memory: WordsInMemory, *, listed: bool) -> _Walker:
    """A walker of a kernel whose consumers are a list (since 6.12) or a chain."""
    consumers = FieldOffsetAndStruct(32, "list_head" if listed else "")
    structs = {
        "uprobe": {
            "rb_node": FieldOffsetAndStruct(0, "rb_node"),
            "consumers": consumers,
            "inode": FieldOffsetAndStruct(48, ""),
            "offset": FieldOffsetAndStruct(56, ""),
        },
        "uprobe_consumer": {"next": FieldOffsetAndStruct(24, "")},
        "inode": {"i_ino": FieldOffsetAndStruct(64, ""), "i_sb": FieldOffsetAndStruct(40, "")},
        "super_block": {"s_dev": FieldOffsetAndStruct(16, "")},
        "rb_node": {"rb_right": FieldOffsetAndStruct(8, ""), "rb_left": FieldOffsetAndStruct(16, "")},
    }
    guest = cast(Guest, SimpleNamespace(name="made"))
    return _Walker(guest, ROOT, KernelStructs(cast(Memory, memory), structs, 8, "little"))


def memory(*, listed: bool) -> WordsInMemory:
    """Three nodes of one file with one, no and two consumers."""
    made = WordsInMemory()
    made.put(ROOT, NODES[0])
    made.put(NODES[0] + 8, NODES[1], NODES[2])
    made.put(INODE + 64, 77)
    made.put(INODE + 40, BLOCK)
    made.put(BLOCK + 16, 8 << 20 | 3)
    for number, (node, consumers) in enumerate(zip(NODES, (1, 0, 2), strict=True)):
        made.put(node + 48, INODE, 0x1100 + number)
        places = [node + 0x100 * (each + 1) for each in range(consumers)]
        links = places if listed else [place + 24 for place in places]
        head = node + 32
        made.put(head, *(places[:1] or ([head] if listed else [0])))
        for link, following in zip(links, [*places[1:], head if listed else 0], strict=False):
            made.put(link, following)
    return made


@pytest.mark.parametrize("listed", [False, True])
def test_walk(listed: bool) -> None:
    found = walker(memory(listed=listed), listed=listed).files()
    assert found == {f"{os.makedev(8, 3)}:77": {0x1100: 1, 0x1101: 0, 0x1102: 2}}


def test_empty_tree() -> None:
    assert walker(WordsInMemory(), listed=True).files() == {}


def test_circle_of_nodes() -> None:
    made = memory(listed=False)
    made.put(NODES[2] + 8, NODES[0])
    with pytest.raises(GuestError, match="more than"):
        walker(made, listed=False).files()


def test_broken_consumers() -> None:
    made = memory(listed=True)
    made.put(NODES[2] + 0x200, NODES[2] + 0x100)
    with pytest.raises(GuestError, match="no list"):
        walker(made, listed=True).files()
