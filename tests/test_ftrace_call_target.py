"""The target of an ftrace call is computed from the bytes of its site, for each form of the call."""

from __future__ import annotations

from harness.core.architecture import FtraceCallInstruction
from harness.landing.verify.ftrace_call_target import call_target, size_of_trampoline_at_target, tracer_of_trampoline


def test_an_x86_site_calls_what_its_distance_says() -> None:
    assert (
        call_target(FtraceCallInstruction.X86_CALL, 0xFFFFFFFF81411C80, bytes.fromhex("e87b23e43e"))
        == 0xFFFFFFFFC0254000
    )
    assert call_target(FtraceCallInstruction.X86_CALL, 0x1000, bytes.fromhex("0f1f440000")) is None
    assert call_target(FtraceCallInstruction.X86_CALL, 0x1000, b"\xe8\x00") is None


def test_an_arm64_site_calls_from_either_word() -> None:
    nop, forward, back = bytes.fromhex("1f2003d5"), bytes.fromhex("02000094"), bytes.fromhex("ffffff97")
    assert call_target(FtraceCallInstruction.ARM64_BL, 0x1000, nop + forward) == 0x1004 + 8
    assert call_target(FtraceCallInstruction.ARM64_BL, 0x1000, back + nop) == 0x1000 - 4
    assert call_target(FtraceCallInstruction.ARM64_BL, 0x1000, nop + nop) is None


def test_the_site_of_s390_goes_to_a_trampoline_with_the_tracer() -> None:
    form = FtraceCallInstruction.S390_TRAMPOLINE
    assert call_target(form, 0x1000, bytes.fromhex("c0f400000010")) == 0x1020
    assert call_target(form, 0x1000, bytes.fromhex("c0f4fffffff8")) == 0xFF0
    assert call_target(form, 0x1000, bytes.fromhex("c00400000010")) is None
    assert call_target(form, 0x1000, bytes.fromhex("c0f4")) is None
    trampoline = bytes.fromhex("c01500000100") + bytes(2) + (0x1006).to_bytes(8) + (0x2000).to_bytes(8)
    assert size_of_trampoline_at_target(form) == len(trampoline)
    assert size_of_trampoline_at_target(FtraceCallInstruction.ARM_BL) == 0
    assert tracer_of_trampoline(trampoline) == 0x2000
    assert tracer_of_trampoline(bytes(24)) is None
    assert tracer_of_trampoline(trampoline[:20]) is None


def test_a_powerpc_site_calls_from_itself_on() -> None:
    assert call_target(FtraceCallInstruction.PPC_BL, 0x1000, bytes.fromhex("09000048")) == 0x1008
    assert call_target(FtraceCallInstruction.PPC_BL, 0x1000, bytes.fromhex("f9ffff4b")) == 0xFF8
    assert call_target(FtraceCallInstruction.PPC_BL, 0x1000, bytes.fromhex("08000048")) is None  # a branch
    assert call_target(FtraceCallInstruction.PPC_BL, 0x1000, bytes.fromhex("0b000048")) is None  # an absolute one
    assert call_target(FtraceCallInstruction.PPC_BL, 0x1000, bytes.fromhex("090000")) is None


def test_a_loongarch_site_calls_from_its_second_word() -> None:
    form, move = FtraceCallInstruction.LOONGARCH_BL, bytes.fromhex("2c001500")
    assert call_target(form, 0x1000, move + bytes.fromhex("00080054")) == 0x1004 + 8
    assert call_target(form, 0x9000000000428FA8, move + bytes.fromhex("f7a72856")) == 0x900000000020B850
    assert call_target(form, 0x1000, move + bytes.fromhex("00004003")) is None  # a nop
    assert call_target(form, 0x1000, bytes.fromhex("0008005400080050")) is None  # a call in the first word, a branch
    assert call_target(form, 0x1000, move) is None


def test_a_mips_site_calls_in_its_region_or_an_address_of_two_halves() -> None:
    jal = bytes.fromhex("c85b040c") + bytes(4)
    assert call_target(FtraceCallInstruction.MIPS_JAL, 0xFFFFFFFF80FEBE5C, jal) == 0xFFFFFFFF80116F20
    loads = bytes.fromhex("1280033c") + bytes.fromhex("a08a6364")
    assert call_target(FtraceCallInstruction.MIPS_JAL, 0xFFFFFFFFC0000000, loads) == 0xFFFFFFFF80118AA0
    jumps_over = bytes.fromhex("04000010") + bytes.fromhex("a08a6364")
    assert call_target(FtraceCallInstruction.MIPS_JAL, 0xFFFFFFFFC0000000, jumps_over) is None
    assert call_target(FtraceCallInstruction.MIPS_JAL, 0xFFFFFFFF80FEBE5C, bytes(8)) is None  # a nop
    assert call_target(FtraceCallInstruction.MIPS_JAL, 0x1000, jal[:4]) is None


def test_a_site_of_32_bit_mips_is_big_endian() -> None:
    jal = bytes.fromhex("0c045bc8") + bytes(4)
    assert call_target(FtraceCallInstruction.MIPS32_JAL, 0x80FEBE5C, jal) == 0x80116F20
    assert call_target(FtraceCallInstruction.MIPS32_JAL, 0xC0000000, bytes.fromhex("3c03801224638aa0")) == 0x80118AA0
    # The loads of a 64-bit kernel, and a branch over these of 32 bits.
    assert call_target(FtraceCallInstruction.MIPS32_JAL, 0xC0000000, bytes.fromhex("3c03801264638aa0")) is None
    assert call_target(FtraceCallInstruction.MIPS32_JAL, 0xC0000000, bytes.fromhex("1000000400000000")) is None


def test_an_arm_site_calls_from_two_words_on() -> None:
    assert call_target(FtraceCallInstruction.ARM_BL, 0x1000, bytes.fromhex("020000eb")) == 0x1010
    assert call_target(FtraceCallInstruction.ARM_BL, 0x1000, bytes.fromhex("fdffffeb")) == 0xFFC
    assert call_target(FtraceCallInstruction.ARM_BL, 0x1000, bytes.fromhex("04d08de2")) is None
    assert call_target(FtraceCallInstruction.ARM_BL, 0x1000, bytes.fromhex("020000")) is None
