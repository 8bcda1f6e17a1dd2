"""LoongArch instructions are classified as the kernel and the CPU treat them."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import cast

import pytest

from harness.core.architecture import DecoderKind
from harness.core.elf import Elf, Symbol
from harness.landing.code import decode_loongarch
from harness.landing.code.instruction import Flow, Instruction, InstructionKind
from harness.landing.code.instructions import decode_function
from harness.landing.code.loongarch_kprobe_rules import refusal_reason


def packed(*words: int) -> bytes:
    return struct.pack(f"<{len(words)}I", *words)


def decoded(*words: int) -> list[Instruction]:
    return decode_loongarch.decode(packed(*words))


@pytest.mark.parametrize(
    ("word", "flow", "kind", "target"),
    [
        (0x02FFC063, Flow.PLAIN, InstructionKind.OTHER, None),  # addi.d sp, sp, -16
        (0x29C02061, Flow.PLAIN, InstructionKind.OTHER, None),  # st.d ra, sp, 8
        (0x0015002C, Flow.PLAIN, InstructionKind.OTHER, None),  # move t0, ra
        (0x1A000004, Flow.PLAIN, InstructionKind.OTHER, None),  # pcalau12i a0, 0
        (0x03400000, Flow.NOP, InstructionKind.OTHER, None),
        (0x00000000, Flow.ENDS, InstructionKind.OTHER, None),
        (0x002A0001, Flow.ENDS, InstructionKind.OTHER, None),  # break 1
        (0x002B0000, Flow.ENDS, InstructionKind.OTHER, None),  # syscall 0
        (0x06483800, Flow.ENDS, InstructionKind.OTHER, None),  # ertn
        (0x4C000020, Flow.ENDS, InstructionKind.RETURN, None),  # ret
        (0x4C000180, Flow.COMPUTED, InstructionKind.JUMP, None),  # jr t0
        (0x4C000181, Flow.ENDS, InstructionKind.CALL, None),  # jirl ra, t0, 0
        (0x50000800, Flow.ENDS, InstructionKind.JUMP, 8),  # b 8
        (0x57FFF3FF, Flow.ENDS, InstructionKind.CALL, -16),  # bl -16
        (0x40000C80, Flow.ENDS, InstructionKind.CONDITIONAL, 12),  # beqz a0, 12
        (0x47FFFC9F, Flow.ENDS, InstructionKind.CONDITIONAL, -4),  # bnez a0, -4
        (0x58001485, Flow.ENDS, InstructionKind.CONDITIONAL, 20),  # beq a0, a1, 20
        (0x6FFFF885, Flow.ENDS, InstructionKind.CONDITIONAL, -8),  # bgeu a0, a1, -8
        (0x48000400, Flow.ENDS, InstructionKind.CONDITIONAL, 4),  # bceqz fcc0, 4
        (0x38610CA6, Flow.REFUSED, InstructionKind.OTHER, None),  # amadd.w a2, a3, a1
        (0x20000085, Flow.REFUSED, InstructionKind.OTHER, None),  # ll.w a1, a0, 0
    ],
)
def test_flow_kind_and_target_of_an_instruction(
    word: int, flow: Flow, kind: InstructionKind, target: int | None
) -> None:
    (found,) = decoded(word)
    assert (found.flow, found.kind, found.target, found.size) == (flow, kind, target, 4)


def test_code_between_a_reservation_and_its_store_is_exclusive() -> None:
    # ll.d a1, a0, 0; addi.d a1, a1, 1; sc.d a1, a0, 0; beqz a1, -12; ret
    flows = [each.flow for each in decoded(0x22000085, 0x02C004A5, 0x23000085, 0x43FFF4BF, 0x4C000020)]
    assert flows == [Flow.REFUSED, Flow.EXCLUSIVE, Flow.REFUSED, Flow.ENDS, Flow.ENDS]


def test_code_after_a_reservation_without_a_store_is_not_exclusive() -> None:
    assert [each.flow for each in decoded(0x22000085, 0x02C004A5)] == [Flow.REFUSED, Flow.PLAIN]


def test_an_entry_of_a_modules_plt_is_a_stub() -> None:
    # ret; lu12i.w t1, 1; lu32i.d t1, 0; lu52i.d t1, t1, -1792; jirl zero, t1, 16
    code = packed(0x4C000020, 0x1400002D, 0x1600000D, 0x032401AD, 0x4C0011A0)
    assert decode_loongarch.stub_ranges(code) == [(4, 20)]
    assert decode_loongarch.stub_ranges(code[:-4] + packed(0x4C001180)) == []


def test_a_probe_on_the_word_that_ftrace_checks_is_left_out() -> None:
    """The two nops of a traced function: a probe on the second one ends ftrace (ftrace_make_call(), 6.12)."""
    code = packed(0x03400000, 0x03400000, 0x02FFC063, 0x4C000020)
    elf = cast(Elf, SimpleNamespace(function_bytes=lambda _: code, linked=True, path="a kernel"))
    symbol = Symbol("f", 0x9000000000200000, len(code), ".text", "func", "global")
    flows = [each.flow for each in decode_function(elf, symbol, DecoderKind.LOONGARCH)]
    assert flows == [Flow.PLAIN, Flow.WRITTEN_BY_FTRACE, Flow.PLAIN, Flow.ENDS]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        (0x38600000, "atomic memory access"),  # amswap.w, the first of the range
        (0x38718000, "atomic memory access"),  # ammin_db.du, the last
        (0x38720000, ""),
        (0x38578000, "ll or sc"),  # llacq.w
        (0x38578C00, "ll or sc"),  # screl.d
        (0x38570000, "ll or sc"),  # sc.q
        (0x24000085, ""),  # ldptr.w
        (0x48000000, "branch on a floating-point condition"),
        (0x4C000020, ""),
    ],
)
def test_the_reason_for_refusing_a_probe(word: int, reason: str) -> None:
    assert refusal_reason(word) == reason
