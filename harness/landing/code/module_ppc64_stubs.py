"""The section `.stubs` of a module of 64-bit PowerPC, which the module loader fills with jumps to other files.

A stub has seven words of code, a magic word and the address that it jumps to. Its code reads that address relative to
the module's TOC pointer. The stub for ftrace computes it from the kernel's TOC pointer, because a traced function may
not have loaded its own yet (create_stub(), create_ftrace_stub(), arch/powerpc/kernel/module_64.c, 6.1). With function
descriptors (ELFv1, big endian) a stub has the whole descriptor in the place of the address, and there is none for
ftrace.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection, Iterator
from typing import NamedTuple

STUB, STUB_V1 = struct.Struct("<7IIQ"), struct.Struct(">7IIQQQ")
_MAGIC, _WORDS = 0x73747562, 7
_FIELD, _UPPER = 0xFFFF, 0xFFFF0000
_BITS = (1 << 64) - 1
# addis r11,r2; addi r11,r11; std r2,24(r1); ld r12,32(r11); mtctr r12; bctr
_FAR = (0x3D620000, 0x396B0000, 0xF8410018, 0xE98B0020, 0x7D8903A6, 0x4E800420, 0)
# addis r11,r2; addi r11,r11; std r2,40(r1); ld r12,32(r11); ld r2,40(r11); mtctr r12; bctr
_FAR_V1 = (0x3D620000, 0x396B0000, 0xF8410028, 0xE98B0020, 0xE84B0028, 0x7D8903A6, 0x4E800420)
# ld r12,kernel_toc(r13); addis r12,r12; addi r12,r12; mtctr r12; bctr
_TRACED = (0xE98D0000, 0x3D8C0000, 0x398C0000, 0x7D8903A6, 0x4E800420, 0, 0)


class _Stub(NamedTuple):
    """A well-formed stub: its offset, where it jumps to, its kind, and the TOC pointer that its code assumes."""

    offset: int
    target: int
    kind: tuple[int, ...]
    toc: int


def find_foreign_stub_offsets(
    content: bytes, start: int, allowed: Collection[int], form: struct.Struct = STUB
) -> Iterator[int]:
    """Yield the offset of each stub of a section in memory at `start` that the loader does not write.

    A stub is empty, or jumps to an allowed address. All stubs of a kind assume the same TOC pointer. `form` is STUB, or
    STUB_V1 for a module with function descriptors.
    """
    found = []
    for offset in range(0, len(content) - form.size + 1, form.size):
        stub = _decode(content[offset : offset + form.size], start, offset, form)
        if stub is not None and stub.target in allowed:
            found.append(stub)
        elif any(content[offset : offset + form.size]):
            yield offset
    usual = {
        kind: Counter(each.toc for each in found if each.kind == kind).most_common(1)[0][0]
        for kind in {each.kind for each in found}
    }
    yield from (each.offset for each in found if each.toc != usual[each.kind])


def _decode(piece: bytes, start: int, offset: int, form: struct.Struct) -> _Stub | None:
    fields = form.unpack(piece)
    code, magic, target = list(fields[:_WORDS]), fields[_WORDS], fields[_WORDS + 1]
    if magic != _MAGIC:
        return None
    far = _FAR if form is STUB else _FAR_V1
    if _matches(code, far, (0, 1)):
        return _Stub(offset, target, far, (start + offset - _distance(code[0], code[1])) & _BITS)
    if form is STUB and _matches(code, _TRACED, (0, 1, 2)):
        return _Stub(offset, target, _TRACED, (target - _distance(code[1], code[2])) & _BITS)
    return None


def _matches(code: list[int], form: tuple[int, ...], with_fields: tuple[int, ...]) -> bool:
    return all(
        (word & _UPPER if place in with_fields else word) == own
        for place, (word, own) in enumerate(zip(code, form, strict=True))
    )


def _distance(upper: int, lower: int) -> int:
    """The sum of the signed fields of addis and addi."""
    high, low = upper & _FIELD, lower & _FIELD
    return ((high - (high >> 15 << 16)) << 16) + low - (low >> 15 << 16)
