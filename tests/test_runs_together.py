"""Instructions are classified, and those that run equally often are grouped, in functions assembled here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from harness.core.architecture_table import ARCHITECTURES
from harness.core.elf import Elf
from harness.landing.code import decode_mips
from harness.landing.code.basic_blocks import group_equally_run_offsets, offsets_of_padding_between_parts
from harness.landing.code.instruction import InstructionKind
from harness.landing.code.instructions import decode_function

X86 = """
    test %edi, %edi
    jz 2f
    add $1, %edi
    xor %eax, %eax
2:  lea (%rdi), %eax
    call other
    ret
"""
ARM64 = """
    add w0, w0, #1
    cbz w0, 2f
    add w1, w0, #2
    bl other
2:  ret
"""
PARISC = """
    ldi 1, %r20
    comib,=,n 0, %r26, 2f
    copy %r26, %r28
    comclr,<> %r20, %r26, %r0
    ldi 3, %r28
    addi 1, %r28, %r28
    bl other, %rp
    nop
2:  bv,n %r0(%rp)
    nop
    bv %r0(%rp)
    nop
"""
N, C, K, R = InstructionKind.OTHER, InstructionKind.CONDITIONAL, InstructionKind.CALL, InstructionKind.RETURN


def _function(directory: Path, architecture: str, body: str) -> tuple[Elf, str]:
    compiler = f"{ARCHITECTURES[architecture].cross_prefix}gcc"
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    source, made = directory / "it.s", directory / "it.o"
    source.write_text(f".text\n.globl it\n.type it, %function\nit:\n{body}\n.size it, .-it\n")
    subprocess.run([compiler, "-c", "-o", made, source], check=True)
    return Elf.read(made), architecture


def _kinds(elf: Elf, architecture: str) -> list[InstructionKind]:
    code = decode_function(elf, elf.function("it"), ARCHITECTURES[architecture].kprobe_traits.decoder)
    return [each.kind for each in code]


def _runs(elf: Elf, architecture: str) -> list[list[int]]:
    """Return the groups, with instructions numbered in order."""
    where = (elf, elf.function("it"), ARCHITECTURES[architecture].kprobe_traits.decoder)
    number = {each.offset: place for place, each in enumerate(decode_function(*where))}
    return [[number[offset] for offset in group] for group in group_equally_run_offsets(*where)]


@pytest.mark.parametrize(
    ("architecture", "body", "kinds"),
    [
        ("x86_64", X86, [N, C, N, N, N, K, R]),
        ("arm64", ARM64, [N, C, N, K, R]),
        ("parisc", PARISC, [N, C, N, InstructionKind.SKIP, N, N, K, N, InstructionKind.LONE_RETURN, N, R, N]),
    ],
)
def test_kinds(tmp_path: Path, architecture: str, body: str, kinds: list[InstructionKind]) -> None:
    assert _kinds(*_function(tmp_path, architecture, body)) == kinds


@pytest.mark.parametrize(
    ("architecture", "body", "runs"),
    [
        ("x86_64", X86, [[0, 1], [2, 3], [4, 5], [6]]),
        ("arm64", ARM64, [[0, 1], [2, 3], [4]]),
        # Whether a branch's delay slot or the successor of a nullifying instruction runs is unknown.
        ("parisc", PARISC, [[0, 1], [2], [3], [4], [5, 6], [7], [8], [9], [10], [11]]),
    ],
)
def test_runs_together(tmp_path: Path, architecture: str, body: str, runs: list[list[int]]) -> None:
    assert _runs(*_function(tmp_path, architecture, body)) == runs


def test_through_memory(tmp_path: Path) -> None:
    body = "call *8(%rbx)\njmp *(%rax)\ncall *%rax\nmov (%rax), %eax"
    assert _kinds(*_function(tmp_path, "x86_64", body)) == [
        InstructionKind.THROUGH_MEMORY,
        InstructionKind.THROUGH_MEMORY,
        K,
        N,
    ]


def test_after_a_computed_jump_every_instruction_stands_alone(tmp_path: Path) -> None:
    assert _runs(*_function(tmp_path, "x86_64", "add $1, %edi\njmp *%rax\nret")) == [[0], [1], [2]]


def test_padding_follows_a_jump_and_its_delay_slot() -> None:
    nop, move, jump_to_ra, branch, call = 0, 0x00808025, 0x03E00008, 0x10000006, 0x0240F809
    words = [call, nop, nop, jump_to_ra, move, nop, nop, move, nop, branch, nop, nop, move]
    code = decode_mips.decode(b"".join(word.to_bytes(4, "little") for word in words), "<")
    assert list(offsets_of_padding_between_parts(code, delay_slots=True)) == [20, 24, 40, 44]
    assert list(offsets_of_padding_between_parts(code, delay_slots=False)) == [40, 44]
