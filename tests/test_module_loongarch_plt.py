"""Entries of .plt in a LoongArch module: what the loader writes, and what is not its own."""

from __future__ import annotations

import struct

import pytest

from harness.landing.code.module_loongarch_plt import ENTRY_SIZE, find_foreign_plt_offsets, jump_target

PRINTK, KFREE = 0x9000_0000_0075_AD90, 0x9000_0000_0030_0FFC
T1 = 13


def entry(target: int, register: int = T1) -> bytes:
    """An entry as emit_plt_entry() makes it (arch/loongarch/include/asm/module.h, 6.12)."""
    return struct.pack(
        "<4I",
        0x0A << 25 | (target >> 12 & 0xFFFFF) << 5 | register,
        0x0B << 25 | (target >> 32 & 0xFFFFF) << 5 | register,
        0x0C << 22 | (target >> 52 & 0xFFF) << 10 | register << 5 | register,
        0x13 << 26 | (target & 0xFFF) >> 2 << 10 | register << 5,
    )


@pytest.mark.parametrize("target", [PRINTK, KFREE, 0xFFFF_8000_0200_8000, 0x7FFF_FFFF_FFFC])
def test_the_target_of_an_entry(target: int) -> None:
    assert jump_target(entry(target)) == target


@pytest.mark.parametrize("piece", [entry(PRINTK)[:-4], entry(PRINTK, register=12), entry(PRINTK)[:12] + bytes(4), b""])
def test_other_bytes_have_no_target(piece: bytes) -> None:
    assert jump_target(piece) is None


def test_only_jumps_to_allowed_addresses_and_empty_entries_are_the_loaders() -> None:
    content = entry(PRINTK) + entry(KFREE) + bytes(ENTRY_SIZE) + entry(PRINTK)[::-1] + b"\1"
    assert list(find_foreign_plt_offsets(content, {PRINTK, KFREE})) == [3 * ENTRY_SIZE, 4 * ENTRY_SIZE]
    assert list(find_foreign_plt_offsets(content, {PRINTK})) == [ENTRY_SIZE, 3 * ENTRY_SIZE, 4 * ENTRY_SIZE]
