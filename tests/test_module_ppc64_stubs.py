"""The stubs of a module of 64-bit PowerPC: those that the loader writes are accepted, every other one is found."""

from __future__ import annotations

import struct

import pytest

from harness.landing.code.loader_filled_section import JumpForm
from harness.landing.code.module_plt import find_foreign_entry_offsets
from harness.landing.code.module_ppc64_stubs import STUB

START, TOC, KERNEL_TOC = 0xC008_0000_0123_0000, 0xC008_0000_0124_8000, 0xC000_0000_0180_8000
TARGET, TRACER = 0xC000_0000_0030_0000, 0xC000_0000_0007_9000
MAGIC = 0x73747562


def fields(distance: int) -> tuple[int, int]:
    """The fields of addis and addi (PPC_HA(), PPC_LO())."""
    return ((distance + 0x8000) >> 16) & 0xFFFF, distance & 0xFFFF


def far(at: int, target: int = TARGET, *, toc: int = TOC, magic: int = MAGIC) -> bytes:
    high, low = fields(at - toc)
    code = (0x3D620000 | high, 0x396B0000 | low, 0xF8410018, 0xE98B0020, 0x7D8903A6, 0x4E800420, 0)
    return STUB.pack(*code, magic, target)


def traced(target: int = TRACER, *, toc: int = KERNEL_TOC) -> bytes:
    high, low = fields(target - toc)
    code = (0xE98D0020, 0x3D8C0000 | high, 0x398C0000 | low, 0x7D8903A6, 0x4E800420, 0, 0)
    return STUB.pack(*code, MAGIC, target)


def foreign(content: bytes, *allowed: int) -> list[int]:
    return list(find_foreign_entry_offsets(content, START, allowed, lambda _: False, JumpForm.PPC64))


def test_what_the_loader_writes() -> None:
    content = far(START) + far(START + 40) + traced() + bytes(80)
    assert foreign(content, TARGET, TRACER) == []


@pytest.mark.parametrize(
    "wrong",
    [
        far(START + 40, TARGET + 4),
        far(START + 40, toc=TOC + 256),
        far(START + 40, magic=MAGIC + 1),
        far(START + 40)[:20] + struct.pack("<I", 0x4E800421) + far(START + 40)[24:],  # bctrl
        traced(toc=KERNEL_TOC + 8),
        bytes(32) + struct.pack("<Q", TARGET),
    ],
)
def test_any_other_stub(wrong: bytes) -> None:
    content = far(START) + wrong + far(START + 80) + traced() + traced()
    assert foreign(content, TARGET, TRACER) == [40]
