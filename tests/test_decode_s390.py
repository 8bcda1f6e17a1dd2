"""s390 instructions are classified as the kernel and the CPU treat them: size, flow, target, and refused probes."""

from __future__ import annotations

import errno
import random

import capstone
import pytest

from harness.landing.code import decode_s390
from harness.landing.code.instruction import Flow, InstructionKind
from harness.landing.code.s390_kprobe_rules import instruction_length, refusal_reason
from harness.landing.sites.rules_s390 import refusal_errno_and_reason

RESTORE = "ebaff0680004"  # lmg %r10, %r15, 104(%r15)
LOAD_RETURN = "e340f1100004"  # lg %r4, 272(%r15)


@pytest.mark.parametrize(
    ("code", "flow", "kind", "target"),
    [
        ("b9040012", Flow.PLAIN, InstructionKind.OTHER, None),  # lgr %r1, %r2
        ("ebaff0680024", Flow.PLAIN, InstructionKind.OTHER, None),  # stmg %r10, %r15, 104(%r15)
        ("c01000000005", Flow.PLAIN, InstructionKind.OTHER, None),  # larl %r1, .+10
        ("0700", Flow.PLAIN, InstructionKind.OTHER, None),  # nopr
        ("47000000", Flow.PLAIN, InstructionKind.OTHER, None),  # nop
        ("0d10", Flow.PLAIN, InstructionKind.OTHER, None),  # basr %r1, 0: no branch
        ("c00400000000", Flow.NOP, InstructionKind.OTHER, None),  # brcl 0, .: ftrace's
        ("c00400000008", Flow.NOP, InstructionKind.OTHER, 16),  # brcl 0, .+16: a static key
        ("c0f4fffffffe", Flow.ENDS, InstructionKind.JUMP, -4),  # jg .-4
        ("c08400000003", Flow.ENDS, InstructionKind.CONDITIONAL, 6),  # jge .+6
        ("c0e500000010", Flow.ENDS, InstructionKind.CALL, 32),  # brasl %r14, .+32
        ("a7f40004", Flow.ENDS, InstructionKind.JUMP, 8),  # j .+8
        ("a7840004", Flow.ENDS, InstructionKind.CONDITIONAL, 8),  # je .+8
        ("a704ffff", Flow.PLAIN, InstructionKind.OTHER, None),  # brc 0: a nop that nothing patches
        ("a7150004", Flow.ENDS, InstructionKind.CALL, 8),  # bras %r1, .+8
        ("a717fffc", Flow.ENDS, InstructionKind.CONDITIONAL, -8),  # brctg %r1, .-8
        ("ec160008007c", Flow.ENDS, InstructionKind.CONDITIONAL, 16),  # cgij
        ("ec1200f08064", Flow.ENDS, InstructionKind.CONDITIONAL, 480),  # cgrj
        ("ec12e00080e4", Flow.ENDS, InstructionKind.CONDITIONAL, None),  # cgrb, to a register
        ("cc160000000a", Flow.ENDS, InstructionKind.CONDITIONAL, 20),  # brcth
        ("84120004", Flow.ENDS, InstructionKind.CONDITIONAL, 8),  # brxh
        ("07fe", Flow.ENDS, InstructionKind.RETURN, None),  # br %r14
        ("078e", Flow.ENDS, InstructionKind.CONDITIONAL, None),  # ber %r14
        ("07f1", Flow.COMPUTED, InstructionKind.JUMP, None),  # br %r1
        ("47f12000", Flow.COMPUTED, InstructionKind.JUMP, None),  # b 0(%r1, %r2)
        ("0de1", Flow.ENDS, InstructionKind.CALL, None),  # basr %r14, %r1
        ("0610", Flow.PLAIN, InstructionKind.OTHER, None),  # bctr %r1, 0: no branch
        ("0612", Flow.ENDS, InstructionKind.CONDITIONAL, None),  # bctr %r1, %r2
        ("af000000", Flow.ENDS, InstructionKind.OTHER, None),  # mc: BUG()
        ("b2b2f0a0", Flow.ENDS, InstructionKind.OTHER, None),  # lpswe
        ("0a01", Flow.ENDS, InstructionKind.OTHER, None),  # svc
        ("ad07f0a0", Flow.REFUSED, InstructionKind.OTHER, None),  # stosm
        ("acfcf0a0", Flow.REFUSED, InstructionKind.OTHER, None),  # stnsm
        ("44101000", Flow.REFUSED, InstructionKind.OTHER, None),  # ex
        ("c61000000005", Flow.REFUSED, InstructionKind.OTHER, None),  # exrl
        ("c61200000005", Flow.PLAIN, InstructionKind.OTHER, None),  # pfdrl
        ("b98d0010", Flow.REFUSED, InstructionKind.OTHER, None),  # epsw
        ("0002", Flow.UNKNOWN, InstructionKind.OTHER, None),  # the breakpoint
    ],
)
def test_an_instruction(code: str, flow: Flow, kind: InstructionKind, target: int | None) -> None:
    (found,) = decode_s390.decode(bytes.fromhex(code))
    assert (found.flow, found.kind, found.target, found.size) == (flow, kind, target, len(code) // 2)


@pytest.mark.parametrize(
    ("code", "flow", "kind"),
    [
        (LOAD_RETURN + RESTORE + "07f4", Flow.ENDS, InstructionKind.RETURN),
        (LOAD_RETURN + "a7fb00a0" + "07f4", Flow.ENDS, InstructionKind.RETURN),  # aghi %r15, 160
        (LOAD_RETURN + "41f0f0a0" + "07f4", Flow.ENDS, InstructionKind.RETURN),  # la %r15, 160(%r15)
        (RESTORE + "07f1", Flow.ENDS, InstructionKind.JUMP),  # a call in place of a return
        ("e31010000004" + "07f1", Flow.COMPUTED, InstructionKind.JUMP),  # lg %r1, 0(%r1): a jump table
        (RESTORE + "a7840004" + "07f1", Flow.COMPUTED, InstructionKind.JUMP),  # another path may lead here
        (LOAD_RETURN + "07f4", Flow.COMPUTED, InstructionKind.JUMP),  # the stack pointer is not restored
    ],
)
def test_a_return_goes_through_any_register(code: str, flow: Flow, kind: InstructionKind) -> None:
    found = decode_s390.decode(bytes.fromhex(code))[-1]
    assert (found.flow, found.kind) == (flow, kind)


def test_sizes_are_capstones() -> None:
    """Of any instruction that capstone knows, the size and the class of a branch agree."""
    noise = random.Random(4)
    capstones = capstone.Cs(capstone.CS_ARCH_SYSZ, capstone.CS_MODE_BIG_ENDIAN)
    checked = 0
    for _ in range(20000):
        code = noise.randbytes(6)
        for size, mnemonic in ((each[1], each[2]) for each in capstones.disasm_lite(code, 0, 1)):
            checked += 1
            assert size == instruction_length(code[0]), mnemonic
    assert checked > 4000


def test_bytes_that_are_no_instruction_hide_what_follows() -> None:
    code = bytes.fromhex("b9040012" + "0000" + "b9040012")
    assert decode_s390.instruction_starts(code) == [0, 4]
    assert refusal_errno_and_reason(code, 0, (6, 1)) == (0, "")
    assert refusal_errno_and_reason(code, 4, (6, 1)) == (errno.EINVAL, "is no instruction")
    assert refusal_errno_and_reason(code, 6, (6, 1)) == (errno.EINVAL, "after bytes that are no instruction")


def test_padding_and_an_incomplete_end() -> None:
    found = decode_s390.decode(bytes.fromhex("07fe" + "0707" + "47000000" + "c004000000"))
    assert [each.is_padding for each in found] == [False, True, True]
    assert not refusal_reason(0x0707)


def test_words_read_at_constant_addresses() -> None:
    read = "c41800000010"  # lgrl %r1, .+32
    loaded = "c02000000100" + "e34020100004"  # larl %r2, .+512; lg %r4, 16(%r2)
    unknown = "e35030100004"  # lg %r5, 16(%r3)
    code = bytes.fromhex(read + loaded + unknown)
    assert decode_s390.addresses_of_words_read(code, 0x1000) == {0x1020, 0x1206 + 16}
