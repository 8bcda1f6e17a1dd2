"""The link address of an arm64 Image is found among the addresses that it holds."""

import struct

import pytest

from harness.core.errors import BuildError
from harness.images import arm64_image
from harness.images.kallsyms import Kallsyms, RecoveredSymbol

BASE = 0xFFFF800080000000


def image(*words: int) -> bytes:
    """An Image with these words after its header, and an odd byte at its end."""
    return b"\0" * 0x38 + b"ARMd" + b"\0" * 4 + struct.pack(f"<{len(words)}Q", *words) + b"\1"


def test_most_addresses_give_the_base() -> None:
    others = (0xFFFF000012345678, 0xFFFFFFFFFFFFFFF2, 7, 0x5AFF418)
    assert arm64_image.link_address(image(BASE + 0x10000, *others, BASE + 0x5AFF418), "Image") == BASE


def test_small_negative_numbers_are_no_addresses() -> None:
    words = (*(0xFFFFFFFFFFFFFFEA for _ in range(9)), 0xFFFF800008010000)
    assert arm64_image.link_address(image(*words), "Image") == 0xFFFF800008000000


def test_image_without_addresses_is_refused() -> None:
    with pytest.raises(BuildError, match="Image: the Image holds no address"):
        arm64_image.link_address(image(7), "Image")


def test_only_images_are_read() -> None:
    assert arm64_image.is_image(image())
    assert not arm64_image.is_image(b"\x7fELF")


def test_symbols_move_with_the_first_byte_of_the_image() -> None:
    """vmlinux-to-elf took the size of the image for its base."""
    wrong = Kallsyms(0x3240000, (RecoveredSymbol(0x3240000, "T", "_text"), RecoveredSymbol(0x3250000, "T", "_stext")))
    right = wrong.linked_at(BASE, 0x20000)
    assert right.image_base == BASE
    assert [symbol.address for symbol in right.symbols] == [BASE, BASE + 0x10000]


def test_symbols_inside_the_image_stay() -> None:
    """6.1 has no `_text` in its table."""
    table = Kallsyms(BASE, (RecoveredSymbol(BASE + 0x10000, "T", "_stext"),))
    assert table.linked_at(BASE, 0x20000) is table
