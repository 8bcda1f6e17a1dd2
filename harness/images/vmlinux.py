"""Conversion of a boot file into the kernel's linked ELF, with the symbols in the kernel's own tables."""

from __future__ import annotations

import bz2
import lzma
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from elftools.elf.enums import ENUM_E_MACHINE

from harness.core.architecture import Architecture
from harness.core.deadline import Deadline
from harness.core.errors import BuildError
from harness.images import arm64_image, arm_zimage, kallsyms, mips_vmlinuz, s390_bzimage, write_recovered_symbols_elf
from harness.images.kallsyms import Kallsyms
from harness.images.write_recovered_symbols_elf import FlatSection, Form

ELF = b"\x7fELF"
_RECOVERY = 300.0
# A GNU build-id note with a SHA-1 (elf(5)): name size 4, descriptor size 20, type NT_GNU_BUILD_ID, "GNU".
_BUILD_ID = {order: struct.pack(f"{order}III4s", 4, 20, 3, b"GNU") for order in "<>"}
_BUILD_ID_SIZE = 16 + 20
_PAGE = 4096
# The largest unpacked block of LZ4's legacy frame format (lz4_Frame_format.md).
_LZ4_BLOCK = 8 << 20


class _FlatKernel(NamedTuple):
    """A flat kernel from a boot file that has more than the kernel's bytes.

    `base` is its link address, `bss_size` the size of the zeroed data after it, `bss_start` the link address of .bss if
    that does not follow the kernel's last byte, and `relocations` the link addresses of the table of its dynamic
    relocations, if it has one.
    """

    content: bytes
    base: int
    bss_size: int
    relocations: range = range(0)
    bss_start: int = 0


def write_vmlinux(kernel: Path, vmlinux: Path, architecture: Architecture) -> int:
    """Write the ELF of a packaged kernel with its symbols; return the number of symbols.

    An ELF inside the kernel file keeps its program headers and notes, so that QEMU can start it at its PVH entry; an
    ELF with a symbol table is written unchanged. A flat Image is put into an ELF with its bytes at their link
    addresses, which can be read but not booted. So is the kernel in a 32-bit ARM zImage, a MIPS vmlinuz or an s390
    bzImage. Raises BuildError when the file is none of these, or has no symbols.
    """
    packed = kernel.read_bytes()
    flat = _flat_kernel(packed, kernel.name, architecture)
    content = flat.content if flat else unpack(packed, kernel.name)
    if content.startswith(ELF) and (count := write_recovered_symbols_elf.count_symbols(content)):
        vmlinux.write_bytes(content)
        return count
    bare = vmlinux.with_suffix(".bare")
    answer = vmlinux.with_suffix(".symbols")
    try:
        bare.write_bytes(content)
        base = flat.base if flat else architecture.flat_image_base_address
        is_arm64 = arm64_image.is_image(content)
        if is_arm64:
            base = arm64_image.link_address(content, kernel.name)
        found = kallsyms.recover(bare, answer, Deadline.after(_RECOVERY), base, architecture.word_bytes)
        found = found.linked_at(base, len(content)) if is_arm64 else found
        elf = content if content.startswith(ELF) else _wrapped(content, found, architecture, flat)
        vmlinux.write_bytes(write_recovered_symbols_elf.with_symbols(elf, found.symbols))
    finally:
        bare.unlink(missing_ok=True)
        answer.unlink(missing_ok=True)
    return len(found.symbols)


def _flat_kernel(packed: bytes, name: str, architecture: Architecture) -> _FlatKernel | None:
    """Return the kernel in a boot file of ARM, MIPS or s390; None for any other file."""
    if arm_zimage.is_zimage(packed):
        content, text_offset, bss_size = arm_zimage.unpack(packed, name)
        return _FlatKernel(content, architecture.flat_image_base_address + text_offset, bss_size)
    if mips_vmlinuz.is_vmlinuz(packed):
        kernel = mips_vmlinuz.unpack(packed, name)
        base = architecture.flat_image_base_address
        return _FlatKernel(
            kernel.content, base, kernel.bss_end - base - len(kernel.content), bss_start=kernel.bss_start
        )
    if s390_bzimage.is_bzimage(packed):
        found = s390_bzimage.unpack(packed, name)
        relocations = range(found.relocations_start, found.relocations_end)
        return _FlatKernel(found.content, found.base, found.bss_size, relocations)
    return None


def unpack(image: bytes, name: str) -> bytes:
    """Return the kernel inside an x86 bzImage; return an ELF or a flat Image unchanged. Raises BuildError otherwise."""
    # The headers' magic numbers: Documentation/arm64/booting.rst, Documentation/riscv/boot-image-header.rst.
    if image[0x38:0x3C] in (b"ARMd", b"RSC\x05") or image.startswith(ELF):
        return image
    if image[0x202:0x206] != b"HdrS":  # Documentation/x86/boot.rst, the header's magic number
        raise BuildError("neither a bzImage, an Image nor an ELF", where=name, mend="see kernel.package in the recipe")
    # payload_offset counts from the protected-mode code, which follows setup_sects (0 means 4) + 1 sectors.
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = ((image[0x1F1] or 4) + 1) * 512 + offset
    payload = image[start : start + length]
    for magic, expand in _COMPRESSIONS:
        if payload.startswith(magic):
            return expand(payload)
    raise BuildError(f"unknown compression {payload[:4].hex()}", where=name, mend="see kernel.package in the recipe")


def _zstd(payload: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdDecompressor().decompressobj().decompress(payload)


def _lz4(payload: bytes) -> bytes:
    """Unpack the frame format that the kernel's build uses (lz4 -l): a magic number, and blocks with their length.

    The unpacked size that the build appends has the place of a length without a block (lib/decompress_unlz4.c, 6.1).
    """
    import lz4.block

    blocks, place = [], 4
    while place + 4 < len(payload):
        (length,) = struct.unpack_from("<I", payload, place)
        place += 4
        blocks.append(lz4.block.decompress(payload[place : place + length], uncompressed_size=_LZ4_BLOCK))
        place += length
    return b"".join(blocks)


# Decompressors that ignore trailing bytes: the build appends the unpacked size to the payload (size_append in
# scripts/Makefile.lib), which is not part of the compressed stream.
_COMPRESSIONS: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\xfd7zXZ\0", lambda payload: lzma.LZMADecompressor().decompress(payload)),
    (b"\x1f\x8b", lambda payload: zlib.decompressobj(wbits=31).decompress(payload)),
    (b"BZh", lambda payload: bz2.BZ2Decompressor().decompress(payload)),
    (b"\x5d\0\0", lambda payload: lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(payload)),
    (b"\x28\xb5\x2f\xfd", _zstd),
    (b"\x02\x21\x4c\x18", _lz4),
)


def _wrapped(image: bytes, symbols: Kallsyms, architecture: Architecture, flat: _FlatKernel | None) -> bytes:
    """Return an ELF around a flat Image; of its sections, the symbols give only the borders of code.

    `flat` is None if the image has a header with its size in memory.
    """
    base = symbols.image_base
    # image_size: Documentation/arm64/booting.rst, Documentation/riscv/boot-image-header.rst. `_end` is data and has
    # no symbol without CONFIG_KALLSYMS_ALL.
    in_memory = len(image) + flat.bss_size if flat else struct.unpack_from("<Q", image, 16)[0]
    text, text_end, init, init_end = (
        symbols.symbol_address(name) for name in ("_stext", "_etext", "_sinittext", "_einittext")
    )
    end = base + len(image)
    note = base + build_id_note_offset(image, architecture.byte_order)
    places = [
        FlatSection(".head.text", base, text, executable=False),
        FlatSection(".text", text, text_end, executable=True),
        FlatSection(".rodata", text_end, init, executable=False),
        FlatSection(".init.text", init, init_end, executable=True),
        FlatSection(".data", init_end, end, executable=False),
        FlatSection(".bss", flat.bss_start or end if flat else end, base + in_memory, executable=False, in_file=False),
        FlatSection(".note.gnu.build-id", note, note + _BUILD_ID_SIZE, executable=False, is_note=True),
    ]
    if flat and flat.relocations:
        places.append(FlatSection(".rela.dyn", flat.relocations.start, flat.relocations.stop, executable=False))
    machine = ENUM_E_MACHINE[architecture.elf_machine]
    form = Form(architecture.word_bytes, architecture.byte_order == "little")
    return write_recovered_symbols_elf.elf_bytes_from_flat_image(image, base, places, machine, form)


def build_id_note_offset(image: bytes, byte_order: Literal["little", "big"] = "little") -> int:
    """Return the offset of the kernel's own build-id note in a flat image; the embedded vDSOs have such notes too.

    Raises BuildError unless there is exactly one note outside every embedded ELF.
    """
    order = "<" if byte_order == "little" else ">"
    embedded = [range(start, start + _elf_length(image, start, order)) for start in _elf_starts(image)]
    found = [match.start() for match in re.finditer(re.escape(_BUILD_ID[order]), image)]
    ours = [place for place in found if not any(place in inside for inside in embedded)]
    if len(ours) != 1:
        raise BuildError(f"{len(ours)} build-id notes in the kernel", mend="see kernel.package in the recipe")
    return ours[0]


def _elf_starts(image: bytes) -> list[int]:
    """Return the offsets of the embedded vDSOs, which are page aligned (arch/arm64/kernel/vdso-wrap.S, 6.1)."""
    return [match.start() for match in re.finditer(re.escape(ELF), image) if match.start() % _PAGE == 0]


def _elf_length(image: bytes, start: int, order: str) -> int:
    """Return the length of an embedded ELF, whose last part is the section headers; `order` is that of struct."""
    words, halves = (("Q", 40), 58) if image[start + 4] == 2 else (("I", 32), 46)
    (table,) = struct.unpack_from(order + words[0], image, start + words[1])
    size, count = struct.unpack_from(f"{order}HH", image, start + halves)
    return int(table + size * count)
