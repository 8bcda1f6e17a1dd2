"""Reader of a MIPS vmlinuz: an ELF file of the decompressor, with the flat kernel compressed inside of it.

Sources: arch/mips/boot/compressed/Makefile (the kernel is `objcopy -O binary` of vmlinux) and arch/mips/kernel/head.S
(kernel_entry, which clears .bss), 6.1. The flat kernel is linked at the address from which the decompressor copies it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from harness.core.errors import BuildError
from harness.images import embedded_kernel

_ELF, _MACHINE_AT, _MACHINE = b"\x7fELF", 18, 8
# kernel_entry: lui t4; daddiu t4; sd zero,(t4); lui t5; daddiu t5; daddiu t4,8; sd zero,(t4); bne t4,t5. The address in
# t4 is __bss_start, that in t5 the last word of .bss.
_CLEARS = re.compile(
    rb"(?P<start>..)\x0c\x3c(?P<start_low>..)\x8c\x65\x00\x00\x80\xfd"
    rb"(?P<last>..)\x0d\x3c(?P<last_low>..)\xad\x65\x08\x00\x8c\x65\x00\x00\x80\xfd\xfd\xff\x8d\x15",
    re.DOTALL,
)
_WORD = 8
_SIGNED = 0xFFFFFFFF00000000


class FlatKernel(NamedTuple):
    """The flat kernel of a vmlinuz, and the size of the zeros from its end to the end of .bss in memory."""

    content: bytes
    bss_start: int
    bss_end: int


def is_vmlinuz(image: bytes) -> bool:
    """Return True for a 64-bit little-endian MIPS ELF with a kernel compressed by xz inside of it."""
    if image[:6] != _ELF + b"\x02\x01" or int.from_bytes(image[_MACHINE_AT : _MACHINE_AT + 2], "little") != _MACHINE:
        return False
    return embedded_kernel.XZ_MAGIC in image


def unpack(image: bytes, name: str) -> FlatKernel:
    """Return the kernel inside a vmlinuz. Raises BuildError if there is none that clears its .bss."""
    for _, content in embedded_kernel.candidates(image):
        if found := _CLEARS.search(content):
            return FlatKernel(
                content,
                _address(found["start"], found["start_low"]),
                _address(found["last"], found["last_low"]) + _WORD,
            )
    raise BuildError("no kernel compressed with xz was found in the vmlinuz", where=name, mend=embedded_kernel.MEND)


def _address(upper: bytes, lower: bytes) -> int:
    """Return the address that `lui` and `daddiu` make, extended by its sign."""
    high = int.from_bytes(upper, "little") << 16
    return (high + int.from_bytes(lower, "little", signed=True)) & 0xFFFFFFFF | _SIGNED
