"""RISC-V's files are read: pairs of relocations, ftrace's calls, and the entries on which the kernel takes a probe."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.core.architecture import DecoderKind, FtraceCallInstruction
from harness.core.elf import Elf, Symbol
from harness.core.elf_symbols_and_relocations import (
    Relocation,
    Section,
    apply_to_data,
    relocated_positions_within_range,
)
from harness.landing.code.exported_symbols import exported_symbols
from harness.landing.code.instruction import Flow
from harness.landing.code.instructions import decode_function, first_accepted_offset, once_per_call_boundaries
from harness.landing.verify.ftrace_call_target import call_target

SYMBOL = Symbol("f", 0, 32, ".text", "func", "global")
# R_RISCV_ADD8, ADD16, ADD32, ADD64; SUB8 to SUB64; SUB6, SET6; SET32; 64
ADD8, ADD16, ADD32, ADD64, SUB8, SUB16, SUB32, SUB64, SUB6, SET6 = 33, 34, 35, 36, 37, 38, 39, 40, 52, 53
SET32, ABSOLUTE_64, RELAX, CALL_PLT, RVC_JUMP = 56, 2, 51, 19, 45
ENTRY = bytes.fromhex("0100" * 4)
PROLOGUE = bytes.fromhex("411106e4a2608280")


def changed(content: bytes, *steps: tuple[int, int]) -> bytes:
    data = bytearray(content)
    for kind, address in steps:
        assert apply_to_data("EM_RISCV", "little", data, Relocation(0, kind, SYMBOL, 0), address)
    return bytes(data)


@pytest.mark.parametrize(
    ("before", "steps", "after"),
    [
        ("00000000", [(ADD32, 0x10040), (SUB32, 0x10010)], "30000000"),
        ("0000000000000000", [(ADD64, 0x10010), (SUB64, 0x10040)], "d0ffffffffffffff"),
        ("0000", [(ADD16, 0x12345), (SUB16, 0x12300)], "4500"),
        ("05", [(ADD8, 0x10001), (SUB8, 0x10003)], "03"),
        # DW_CFA_advance_loc: the upper two bits are the operation.
        ("40", [(SET6, 0x10), (SUB6, 0x8)], "48"),
        ("ffffffff", [(SET32, 0x10)], "10000000"),
        ("ffffffffffffffff", [(ABSOLUTE_64, 0x10)], "1000000000000000"),
    ],
)
def test_a_pair_of_relocations_leaves_the_difference(before: str, steps: list[tuple[int, int]], after: str) -> None:
    assert changed(bytes.fromhex(before), *steps) == bytes.fromhex(after)


def test_a_relocation_of_code_is_no_datas() -> None:
    assert not apply_to_data("EM_RISCV", "little", bytearray(8), Relocation(0, CALL_PLT, SYMBOL, 0), 0)


def test_the_bytes_that_relocations_change() -> None:
    entries = [Relocation(at, kind, SYMBOL, 0) for at, kind in ((2, CALL_PLT), (2, RELAX), (12, RVC_JUMP))]
    assert relocated_positions_within_range("EM_RISCV", entries, 0, 16) == {*range(2, 10), 12, 13}


def test_what_a_traced_function_calls() -> None:
    def target(*words: int) -> int | None:
        return call_target(FtraceCallInstruction.RISCV_AUIPC_JALR, 0x1000, struct.pack(f"<{len(words)}I", *words))

    assert target(0x00003297, 0x800282E7) == 0x3800
    assert target(0xFFFFF297, 0x004282E7) == 0x4
    assert target(0x00000013, 0x00000013) is None
    assert target(0x00003097, 0x800080E7) is None  # by ra: a call of the function's own
    assert target(0x00003297) is None


def file(code: bytes) -> Elf:
    found: Any = SimpleNamespace(
        function_bytes=lambda _: code,
        linked=True,
        symbols_named=lambda _: (),
        path="vmlinux",
        relocations=lambda _: (),
    )
    return cast("Elf", found)


def test_a_traced_function_takes_a_probe_after_the_first_nop() -> None:
    traced, other = file(ENTRY + PROLOGUE), file(PROLOGUE)
    assert first_accepted_offset(traced, SYMBOL, DecoderKind.RISCV) == 4
    assert first_accepted_offset(other, SYMBOL, DecoderKind.RISCV) == 0
    assert first_accepted_offset(traced, SYMBOL, DecoderKind.X86_64) == 0
    code = decode_function(traced, SYMBOL, DecoderKind.RISCV)
    assert [(each.offset, each.flow) for each in code[:3]] == [(0, Flow.REFUSED), (4, Flow.PLAIN), (8, Flow.PLAIN)]
    assert once_per_call_boundaries(traced, SYMBOL, DecoderKind.RISCV) == (4, 8, 10, 12)


def kernel_with_exports(rows: list[tuple[int, int]], strings: bytes) -> Elf:
    table, names = 0x2000, 0x4000
    content = b"".join(struct.pack("<3Q", *row, names) for row in rows)
    memory = {table: content, names: strings}
    marks = {"__start___ksymtab": table, "__stop___ksymtab": table + len(content)}
    section = Section(".data", 0x1000, 0, 0x8000, False, True, True, 1)

    def bytes_at(address: int, size: int) -> bytes:
        start = max(each for each in memory if each <= address)
        return memory[start][address - start :][:size]

    found: Any = SimpleNamespace(
        word_bytes=8,
        struct_order="<",
        sections_by_name={".data": section},
        allocated_sections=[section],
        symbols_named=lambda name: [SimpleNamespace(address=marks[name])] if name in marks else [],
        bytes_at=bytes_at,
    )
    return cast("Elf", found)


def test_exports_are_read_between_their_symbols() -> None:
    rows = [(0x10, 0x4001), (0x20, 0x4007)]
    assert exported_symbols(kernel_with_exports(rows, b"\0alpha\0beta\0")) == {"alpha": 0x10, "beta": 0x20}
    # Distances, as on arm64: their words are no addresses of names.
    assert exported_symbols(kernel_with_exports([(0x10, 0x400100000000)], b"\0alpha\0")) == {}


def test_a_branch_of_a_module_goes_where_its_relocation_says() -> None:
    # c.beqz a0, +4; c.li a0, 1; c.jr ra
    code = bytes.fromhex("11c105458280")
    label, other = (Symbol(".L1", at, 0, name, "notype", "local") for at, name in ((0x14, ".text"), (0, "")))
    found: Any = SimpleNamespace(
        function_bytes=lambda _: code,
        linked=False,
        machine="EM_RISCV",
        symbols_named=lambda _: (),
        path="it.ko",
        offset_in_section=lambda _: 0x10,
        relocations=lambda _: [Relocation(0x10, 44, label, 0), Relocation(0x12, CALL_PLT, other, 0)],
        relocated_positions_within_range=lambda *_: {0, 1},
    )
    place = Symbol("f", 0x10, len(code), ".text", "func", "global")
    assert [each.target for each in decode_function(found, place, DecoderKind.RISCV)] == [4, None, None]
