"""The link address of an arm64 Image, which its header does not have."""

from __future__ import annotations

import struct
from collections import Counter

from harness.core.errors import BuildError

_MAGIC_AT, _MAGIC = 0x38, b"ARMd"  # Documentation/arm64/booting.rst
# KIMAGE_VADDR is a multiple of the area of modules, of 128 MiB up to 6.4 and 2 GiB since (arch/arm64/include/asm/
# memory.h). The addresses below it are those of the linear map, those above end before the fixed maps.
_ALIGNMENT = 1 << 27
_LOWEST, _HIGHEST = 0xFFFF000000000000, 0xFFFFFFFF00000000


def is_image(content: bytes) -> bool:
    """Return True if this is an arm64 Image, which is the flat kernel itself."""
    return content[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] == _MAGIC


def link_address(content: bytes, name: str) -> int:
    """Return the link address of an Image's first byte: where most of the addresses that it holds are, rounded down.

    The symbols of a kernel whose kallsyms are relative to its own text (7.0) do not give it. Raises BuildError if the
    image holds no address.
    """
    words = struct.iter_unpack("<Q", content[: len(content) // 8 * 8])
    found: Counter[int] = Counter(word & -_ALIGNMENT for (word,) in words if _LOWEST <= word < _HIGHEST)
    if not found:
        raise BuildError("the Image holds no address", where=name, mend="see kernel.package in the recipe")
    ((base, _),) = found.most_common(1)
    return base
