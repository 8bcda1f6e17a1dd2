"""The table of decoders: how to read the machine code of each architecture, and where ftrace patches its functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import NamedTuple

from harness.core.architecture import DecoderKind
from harness.landing.code import (
    decode_arm,
    decode_loongarch,
    decode_mips,
    decode_parisc,
    decode_ppc64,
    decode_riscv,
    decode_s390,
    decode_sparc,
    decode_superh,
)
from harness.landing.code.instruction import Instruction


def _words(code: bytes) -> range:
    return range(0, len(code), 4)


def _none(_: bytes) -> tuple[()]:
    return ()


def _no_data(_: bytes) -> int:
    return 0


def _no_loads(_: bytes, __: int) -> set[int]:
    return set()


def _no_targets(_: bytes, __: int) -> dict[int, int]:
    return {}


class DecoderMachine(NamedTuple):
    """How to read the machine code of one decoder.

    - `starts` returns only the offsets of instructions, `stubs` the start and end offset of each stub.
    - `sizes_known`: the size of every instruction is known, even if it cannot be decoded.
    - `longest`: the size of the longest instruction.
    - `padding_byte`: an instruction of one byte with which the linker fills text.
    - `entry_pad` may precede the instruction that ftrace patches.
    - `entry_nops` is the number of nops that ftrace has there; it patches the last, or all of them if
      `patches_all_nops` is set, and then its site is the first. With `checks_last_nop` ftrace ends if the last nop
      was changed by anything else, so a probe there is left out. 0: it patches a call of `tracer`, or the function has
      no ftrace site.
    - `tracer_called_at_entry`: that call is the first instruction, and not one after the function's prologue.
    - `probed_on_ftrace`: the kernel accepts a kprobe on an ftrace site. x86 has KPROBES_ON_FTRACE; arm64 returns EINVAL
      (check_ftrace_location(), kernel/kprobes.c, 6.1; seen on Debian's 6.1 kernels).
    - `delay_slots`: the instruction after a branch still runs.
    - `data_before` returns the size of data that the compiler puts before a function with some code.
    - `absolute_targets` maps the offsets of branches whose targets depend on the function's address to the distances of
      these targets from there.
    - `ftrace_code_in_table`: the file's table of ftrace sites is needed to find the site (mips_ftrace_site.py).
    - `decode_at` is `decode` for a function whose address decides what is code in it.
    - `loads` returns the constant addresses from which a function at a given address reads words.
    """

    decode: Callable[[bytes], list[Instruction]]
    starts: Callable[[bytes], Iterable[int]] = _words
    stubs: Callable[[bytes], Iterable[tuple[int, int]]] = _none
    sizes_known: bool = True
    longest: int = 4
    padding_byte: bytes = b""
    entry_pad: bytes = b""
    entry_nops: int = 0
    patches_all_nops: bool = False
    checks_last_nop: bool = False
    tracer: str = "__fentry__"
    tracer_called_at_entry: bool = True
    probed_on_ftrace: bool = True
    delay_slots: bool = False
    data_before: Callable[[bytes], int] = _no_data
    absolute_targets: Callable[[bytes, int], dict[int, int]] = _no_targets
    ftrace_code_in_table: bool = False
    loads: Callable[[bytes, int], set[int]] = _no_loads
    decode_at: Callable[[bytes, int], list[Instruction]] | None = None


def _mips(order: decode_mips.Order) -> DecoderMachine:
    return DecoderMachine(
        partial(decode_mips.decode, order=order),
        tracer="_mcount",
        tracer_called_at_entry=False,
        probed_on_ftrace=False,
        delay_slots=True,
        absolute_targets=partial(decode_mips.targets_of_jumps_to_addresses, order=order),
        ftrace_code_in_table=True,
        loads=partial(decode_mips.addresses_of_words_read, order=order),
    )


@lru_cache(maxsize=1)
def decoder_machines() -> Mapping[DecoderKind, DecoderMachine]:
    """Every decoder's machine. capstone takes a sixth of a second to import, and most commands decode nothing."""
    from harness.landing.code import decode_capstone

    return {
        # ENDBR64, then `call __fentry__`.
        DecoderKind.X86_64: DecoderMachine(
            decode_capstone.decode_x86_64,
            starts=decode_capstone.instruction_starts_x86_64,
            sizes_known=False,
            longest=15,
            padding_byte=b"\xcc",
            entry_pad=bytes.fromhex("f30f1efa"),
        ),
        DecoderKind.X86_32: DecoderMachine(
            decode_capstone.decode_x86_32,
            starts=decode_capstone.instruction_starts_x86_32,
            sizes_known=False,
            longest=15,
            padding_byte=b"\xcc",
            entry_pad=bytes.fromhex("f30f1efb"),
            loads=decode_capstone.addresses_of_words_read_x86_32,
        ),
        # BTI c, then the nops of -fpatchable-function-entry=2 (ftrace_call_adjust(), arch/arm64/kernel/ftrace.c, 6.1).
        DecoderKind.AARCH64: DecoderMachine(
            decode_capstone.decode_aarch64,
            stubs=decode_capstone.stub_ranges_aarch64,
            entry_pad=bytes.fromhex("5f2403d5"),
            entry_nops=2,
            probed_on_ftrace=False,
            loads=decode_capstone.addresses_of_words_read_aarch64,
        ),
        # push {lr}; bl __gnu_mcount_nc (arch/arm/kernel/entry-ftrace.S, 6.1).
        DecoderKind.ARM: DecoderMachine(
            decode_arm.decode,
            starts=decode_arm.instruction_starts,
            stubs=decode_arm.stub_ranges,
            tracer="__gnu_mcount_nc",
            tracer_called_at_entry=False,
            probed_on_ftrace=False,
            loads=decode_arm.addresses_of_words_read,
        ),
        # Two nops that become `auipc; jalr` (ftrace_make_call(), arch/riscv/kernel/ftrace.c, 6.12).
        DecoderKind.RISCV: DecoderMachine(
            decode_riscv.decode,
            starts=decode_riscv.instruction_starts,
            stubs=decode_riscv.stub_ranges,
            entry_nops=2,
            patches_all_nops=True,
            probed_on_ftrace=False,
        ),
        # Two nops: the kernel writes `move t0,ra` over the first at boot, and ftrace a call over the second
        # (ftrace_init_nop(), arch/loongarch/kernel/ftrace_dyn.c, 6.12).
        DecoderKind.LOONGARCH: DecoderMachine(
            decode_loongarch.decode,
            stubs=decode_loongarch.stub_ranges,
            entry_nops=2,
            patches_all_nops=True,
            checks_last_nop=True,
        ),
        DecoderKind.MIPS_LITTLE: _mips("<"),
        DecoderKind.MIPS_BIG: _mips(">"),
        DecoderKind.PARISC: DecoderMachine(decode_parisc.decode, stubs=decode_parisc.stub_ranges, delay_slots=True),
        # One nop of six bytes (ftrace_init_nop(), arch/s390/kernel/ftrace.c, 6.1).
        DecoderKind.S390: DecoderMachine(
            decode_s390.decode,
            starts=decode_s390.instruction_starts,
            longest=6,
            entry_nops=1,
            loads=decode_s390.addresses_of_words_read,
        ),
        # mflr r0; bl _mcount, after the code of the global entry (-mprofile-kernel).
        DecoderKind.PPC64: DecoderMachine(
            decode_ppc64.decode,
            starts=decode_ppc64.instruction_starts,
            stubs=decode_ppc64.stub_ranges,
            data_before=decode_ppc64.data_size_before,
            longest=8,
            tracer="_mcount",
            tracer_called_at_entry=False,
        ),
        # Without -mprofile-kernel: bl _mcount after the prologue, and no KPROBES_ON_FTRACE.
        DecoderKind.PPC64_BIG: DecoderMachine(
            decode_ppc64.decode_big_endian,
            starts=decode_ppc64.instruction_starts_big_endian,
            stubs=decode_ppc64.stub_ranges_big_endian,
            longest=8,
            tracer="_mcount",
            tracer_called_at_entry=False,
            probed_on_ftrace=False,
        ),
        DecoderKind.SPARC: DecoderMachine(decode_sparc.decode, delay_slots=True),
        DecoderKind.SUPERH: DecoderMachine(
            decode_superh.decode,
            starts=decode_superh.instruction_starts,
            longest=2,
            delay_slots=True,
            decode_at=decode_superh.decode,
        ),
    }
