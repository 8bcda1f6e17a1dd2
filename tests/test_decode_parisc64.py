"""The instructions, stubs and tables that only 64-bit PA-RISC has, compared with objdump and with the module loader."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from harness.core.architecture_table import ARCHITECTURES
from harness.core.elf import Elf
from harness.landing.checks.parisc_text_section_starts import expected_section_starts
from harness.landing.code import decode_parisc
from harness.landing.code.instruction import Flow, InstructionKind
from harness.landing.code.patch_tables import patch_tables_of

PREFIX = ARCHITECTURES["parisc64"].cross_prefix

# get_stub(), arch/parisc/kernel/module.c (6.1): to another module, to millicode, to another section.
GOT = (0x0F6010DB, 0x53610020, 0xE820D000, 0x537B0030)
FAR_GOT = (0x537B0FF0, 0x53610020, 0xE820D000, 0x537B0030)
MILLICODE = (0x20200123, 0x34210456, 0x50210020, 0xE820D002)
DIRECT = (0x20200123, 0x34210456, 0xE820D002)
NOP = 0x08000240


def _assembled(directory: Path, body: str) -> tuple[Path, Elf]:
    if shutil.which(f"{PREFIX}gcc") is None:
        pytest.skip(f"{PREFIX}gcc is not installed")
    source, made = directory / "it.s", directory / "it.o"
    source.write_text(f".level 2.0w\n.text\n.globl it\n.type it, %function\nit:\n{body}\n.size it, .-it\n")
    subprocess.run([f"{PREFIX}gcc", "-c", "-o", made, source], check=True)
    return made, Elf.read(made)


def _packed(*words: int) -> bytes:
    return struct.pack(f">{len(words)}I", *words)


def test_branch_targets_are_objdumps(tmp_path: Path) -> None:
    """The branches compare 64 bits, forwards and backwards; a call has the long displacement."""
    body = """
    cmpb,*= %r26,%r25,it
    cmpb,*<>,n %r26,%r25,near
    cmpib,*= 3,%r26,far
    bb,*< %r26,5,near
    b,l,n far,%rp
near: b,l far,%rp
    nop
    .fill 700,4,0x08000240
far: b,n near
    nop
"""
    made, elf = _assembled(tmp_path, body)
    seen = {each.offset: each.target for each in decode_parisc.decode(elf.function_bytes(elf.function("it")))}
    printed = subprocess.run([f"{PREFIX}objdump", "-d", made], check=True, capture_output=True, text=True).stdout
    wanted = {
        int(found[1], 16): int(found[2], 16)
        for found in re.finditer(r"^ +([0-9a-f]+):\t.*\b([0-9a-f]+) <", printed, re.MULTILINE)
    }
    assert len(wanted) == 7
    assert {offset: seen[offset] for offset in wanted} == wanted


@pytest.mark.parametrize(
    ("text", "flow", "kind"),
    [
        ("bve (%rp)", Flow.ENDS, InstructionKind.RETURN),
        ("bve,n (%rp)", Flow.ENDS, InstructionKind.LONE_RETURN),
        ("bve (%r1)", Flow.COMPUTED, InstructionKind.JUMP),
        ("bve,l (%r1),%rp", Flow.ENDS, InstructionKind.CALL),
        ("cmpclr,*= %r26,%r25,%r1", Flow.SKIPS, InstructionKind.SKIP),
        ("extrd,u,*<> %r26,31,8,%r1", Flow.SKIPS, InstructionKind.SKIP),
        ("extrd,u %r26,31,8,%r1", Flow.PLAIN, InstructionKind.OTHER),
        ("depdi,* 1,31,8,%r1", Flow.PLAIN, InstructionKind.OTHER),
        ("permh,3210 %r19,%r1", Flow.PLAIN, InstructionKind.OTHER),
        ("hshr,u %r1,8,%r1", Flow.PLAIN, InstructionKind.OTHER),
        ("ldd 8(%dp),%r1", Flow.PLAIN, InstructionKind.OTHER),
        ("std,ma %r3,80(%sp)", Flow.PLAIN, InstructionKind.OTHER),
        ("add,dc %r26,%r25,%r1", Flow.PLAIN, InstructionKind.OTHER),
    ],
)
def test_flow(tmp_path: Path, text: str, flow: Flow, kind: InstructionKind) -> None:
    _, elf = _assembled(tmp_path, f"    {text}\n    nop")
    first = decode_parisc.decode(elf.function_bytes(elf.function("it")))[0]
    assert (first.flow, first.kind) == (flow, kind)


@pytest.mark.parametrize("stub", [GOT, FAR_GOT, MILLICODE, DIRECT], ids=["got", "far got", "millicode", "direct"])
def test_stub_is_found(stub: tuple[int, ...]) -> None:
    assert decode_parisc.stub_ranges(_packed(NOP, *stub, NOP)) == [(4, 4 + 4 * len(stub))]
    for number in range(1, len(stub)):
        changed = [*stub]
        changed[number] ^= 0x00200000
        assert decode_parisc.stub_ranges(_packed(NOP, *changed, NOP)) == []


def test_stubs_follow_each_other() -> None:
    assert decode_parisc.stub_ranges(_packed(*GOT, *GOT, *DIRECT)) == [(0, 16), (16, 32), (32, 44)]


def test_room_for_got_descriptors_and_stubs() -> None:
    """Two words of the GOT, one descriptor, then room for one stub more than there are calls, twice."""
    section = SimpleNamespace(executable=True, size=8, alignment=8)
    sections = [SimpleNamespace(**{**vars(section), "name": name}) for name in (".text", ".exit.text")]
    moved = {".text": [74], ".data": [64], ".rela": [80], ".exit.text": [34]}
    module = SimpleNamespace(
        word_bytes=8,
        allocated_sections=sections,
        sections_by_name=moved,
        relocations=lambda name: [SimpleNamespace(type=number) for number in moved[name]],
    )
    expected = {".text": 16 + 32 + 2 * 16, ".exit.text": 80 + 8 + 16}
    assert expected_section_starts(cast(Elf, module)) == expected


def test_rows_of_jump_labels_are_longer() -> None:
    tables = patch_tables_of("EM_PARISC", 8).tables
    assert [struct.calcsize(f">{table.row_format}") for table in tables] == [12, 16]
    assert [struct.calcsize(f">{table.row_format}") for table in patch_tables_of("EM_PARISC", 4).tables] == [12, 12]
