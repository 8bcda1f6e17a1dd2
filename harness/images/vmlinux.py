"""Conversion of a boot file into the kernel's linked ELF, with the symbols in the kernel's own tables."""

from __future__ import annotations

import bz2
import lzma
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from elftools.elf.enums import ENUM_E_MACHINE

from harness.core.architecture import Architecture
from harness.core.deadline import Deadline
from harness.core.errors import BuildError
from harness.images import arm_zimage, kallsyms, write_recovered_symbols_elf
from harness.images.kallsyms import Kallsyms
from harness.images.write_recovered_symbols_elf import FlatSection, Form

ELF = b"\x7fELF"
_RECOVERY = 300.0
# A GNU build-id note with a SHA-1 (elf(5)): name size 4, descriptor size 20, type NT_GNU_BUILD_ID, "GNU".
_BUILD_ID = struct.pack("<III4s", 4, 20, 3, b"GNU")
_PAGE = 4096
# The largest unpacked block of LZ4's legacy frame format (lz4_Frame_format.md).
_LZ4_BLOCK = 8 << 20


def write_vmlinux(kernel: Path, vmlinux: Path, architecture: Architecture) -> int:
    """Write the ELF of a packaged kernel with its symbols; return the number of symbols.

    An ELF inside the kernel file keeps its program headers and notes, so that QEMU can start it at its PVH entry; an
    ELF with a symbol table is written unchanged. A flat Image is put into an ELF with its bytes at their link
    addresses, which can be read but not booted. So is the kernel in a 32-bit ARM zImage. Raises BuildError when the
    file is none of these, or has no symbols.
    """
    packed = kernel.read_bytes()
    zimage = arm_zimage.unpack(packed, kernel.name) if arm_zimage.is_zimage(packed) else None
    content = zimage.content if zimage else unpack(packed, kernel.name)
    if content.startswith(ELF) and (count := write_recovered_symbols_elf.count_symbols(content)):
        vmlinux.write_bytes(content)
        return count
    bare = vmlinux.with_suffix(".bare")
    answer = vmlinux.with_suffix(".symbols")
    try:
        bare.write_bytes(content)
        base = architecture.flat_image_base_address + (zimage.text_offset if zimage else 0)
        found = kallsyms.recover(bare, answer, Deadline.after(_RECOVERY), base, architecture.word_bytes)
        bss_size = zimage.bss_size if zimage else None
        elf = content if content.startswith(ELF) else _wrapped(content, found, architecture, bss_size)
        vmlinux.write_bytes(write_recovered_symbols_elf.with_symbols(elf, found.symbols))
    finally:
        bare.unlink(missing_ok=True)
        answer.unlink(missing_ok=True)
    return len(found.symbols)


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


def _wrapped(image: bytes, symbols: Kallsyms, architecture: Architecture, bss_size: int | None) -> bytes:
    """Return an ELF around a flat Image; of its sections, the symbols give only the borders of code.

    `bss_size` is None if the image has a header with its size in memory.
    """
    base = symbols.image_base
    # image_size: Documentation/arm64/booting.rst, Documentation/riscv/boot-image-header.rst. `_end` is data and has
    # no symbol without CONFIG_KALLSYMS_ALL.
    in_memory = struct.unpack_from("<Q", image, 16)[0] if bss_size is None else len(image) + bss_size
    text, text_end, init, init_end = (
        symbols.symbol_address(name) for name in ("_stext", "_etext", "_sinittext", "_einittext")
    )
    end = base + len(image)
    note = base + build_id_note_offset(image)
    places = [
        FlatSection(".head.text", base, text, executable=False),
        FlatSection(".text", text, text_end, executable=True),
        FlatSection(".rodata", text_end, init, executable=False),
        FlatSection(".init.text", init, init_end, executable=True),
        FlatSection(".data", init_end, end, executable=False),
        FlatSection(".bss", end, base + in_memory, executable=False, in_file=False),
        FlatSection(".note.gnu.build-id", note, note + len(_BUILD_ID) + 20, executable=False, is_note=True),
    ]
    machine = ENUM_E_MACHINE[architecture.elf_machine]
    return write_recovered_symbols_elf.elf_bytes_from_flat_image(
        image, base, places, machine, Form(architecture.word_bytes, little_endian=True)
    )


def build_id_note_offset(image: bytes) -> int:
    """Return the offset of the kernel's own build-id note in a flat image; the embedded vDSOs have such notes too.

    Raises BuildError unless there is exactly one note outside every embedded ELF.
    """
    embedded = [range(start, start + _elf_length(image, start)) for start in _elf_starts(image)]
    found = [match.start() for match in re.finditer(re.escape(_BUILD_ID), image)]
    ours = [place for place in found if not any(place in inside for inside in embedded)]
    if len(ours) != 1:
        raise BuildError(f"{len(ours)} build-id notes in the kernel", mend="see kernel.package in the recipe")
    return ours[0]


def _elf_starts(image: bytes) -> list[int]:
    """Return the offsets of the embedded vDSOs, which are page aligned (arch/arm64/kernel/vdso-wrap.S, 6.1)."""
    return [match.start() for match in re.finditer(re.escape(ELF), image) if match.start() % _PAGE == 0]


def _elf_length(image: bytes, start: int) -> int:
    """Return the length of an embedded little-endian ELF, whose last part is the section headers."""
    if image[start + 4] == 2:
        table, size, count = *struct.unpack_from("<Q", image, start + 40), *struct.unpack_from("<HH", image, start + 58)
    else:
        table, size, count = *struct.unpack_from("<I", image, start + 32), *struct.unpack_from("<HH", image, start + 46)
    return int(table + size * count)
