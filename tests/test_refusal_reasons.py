"""The reasons for which a kernel refuses probes of a sweep are those of its tables and of the code. No VM is used."""

from __future__ import annotations

import errno
import struct
from types import SimpleNamespace
from typing import Any, Literal, cast

import pytest

from harness.core.architecture import DecoderKind
from harness.landing.layout import Layout
from harness.landing.lookup import find_addresses_refusing_kprobes
from harness.landing.site import Site
from harness.landing.sweep import documented_refusal_reasons
from harness.landing.sweep.documented_refusal_reasons import RefusalReasonFinder


class FakeKernel:
    """A kernel with a jump table of one entry and a function `base`."""

    word_bytes, struct_order, machine = 8, "<", "EM_X86_64"
    symbols = (SimpleNamespace(name="__pfx_schedule", address=0x800), SimpleNamespace(name="schedule", address=0x810))

    def symbols_named(self, name: str) -> list[Any]:
        places = {"__start___jump_table": 0x1000, "__stop___jump_table": 0x1010, "base": 0x500}
        return [SimpleNamespace(address=places[name])] if name in places else []

    def bytes_at(self, address: int, size: int) -> bytes:
        return struct.pack("<iiq", 0x700 - address, 0, 0)[:size]


def refusals(
    monkeypatch: pytest.MonkeyPatch, memory: bytes = b"\x90", decoder: DecoderKind = DecoderKind.X86_64
) -> RefusalReasonFinder:
    monkeypatch.setattr(documented_refusal_reasons, "read_blacklist_ranges", lambda _: [(0x100500, 0x100600)])
    kprobes = SimpleNamespace(decoder=decoder)
    guest = SimpleNamespace(
        image=SimpleNamespace(config={"CONFIG_HAVE_ARCH_JUMP_LABEL_RELATIVE": "y"}),
        architecture=SimpleNamespace(kprobe_traits=kprobes),
        memory=SimpleNamespace(read=lambda *_: memory),
    )
    module = SimpleNamespace(elf=None, sections={".text": 0x200000, ".init.text": 0x300000}, lasting_sections={".text"})
    monkeypatch.setattr(
        find_addresses_refusing_kprobes, "module_table_entries", lambda *_: [(".text", 0x10), (".init.text", 0x20)]
    )
    layout = SimpleNamespace(guest=guest, kernel=FakeKernel(), slide=0x100000, modules={"m": module}, decoder=decoder)
    return RefusalReasonFinder(cast(Layout, layout))


@pytest.mark.parametrize(
    ("symbol", "address", "number", "reason"),
    [
        ("base", 0x100500, errno.EINVAL, "blacklisted"),
        ("base.cold", 0x100900, errno.EINVAL, "part of a blacklisted function"),
        ("other.cold", 0x100900, errno.EINVAL, ""),
        ("__pfx_f", 0x100900, errno.EINVAL, "preamble of a function"),
        ("__sched_text_start", 0x100800, errno.EINVAL, "preamble of a function"),
        ("schedule", 0x100810, errno.EINVAL, ""),
        ("f", 0x100700, errno.EINVAL, "jump label"),
        ("f", 0x100701, errno.EINVAL, ""),
        ("of_module", 0x200010, errno.EINVAL, "jump label"),
        ("of_module", 0x200011, errno.EINVAL, ""),
        ("freed_init", 0x300020, errno.EINVAL, ""),
        ("base", 0x100500, errno.ENOENT, ""),
    ],
)
def test_refusals_have_the_reasons_of_the_kernel(
    monkeypatch: pytest.MonkeyPatch, symbol: str, address: int, number: int, reason: str
) -> None:
    assert refusals(monkeypatch).reason(Site(symbol), address, number) == reason


def test_a_kernel_whose_functions_have_dots_does_not_refuse_a_part_of_a_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The name before the first dot of `.base.cold` is empty."""
    finder = refusals(monkeypatch)
    monkeypatch.setattr(FakeKernel, "machine", "EM_PPC64")
    monkeypatch.setattr(FakeKernel, "sections_by_name", {".opd": None}, raising=False)
    assert finder.reason(Site("base.cold"), 0x100900, errno.EINVAL) == ""
    assert finder.reason(Site("base"), 0x100500, errno.EINVAL) == "blacklisted"


@pytest.mark.parametrize(
    ("decoder", "order", "before", "reason"),
    [
        (DecoderKind.MIPS_LITTLE, "little", 0x10C00003, "delay slot of a branch"),  # beqz a2
        (DecoderKind.MIPS_BIG, "big", 0x00400008, "delay slot of a branch"),  # jr v0
        (DecoderKind.MIPS_LITTLE, "little", 0x00A4402B, ""),  # sltu t0, a1, a0
        (DecoderKind.PARISC, "big", 0xE840C002, ""),  # bv,n r0(rp): parisc reads no other instruction
    ],
)
def test_a_function_in_the_delay_slot_of_another_is_refused_on_mips(
    monkeypatch: pytest.MonkeyPatch, decoder: DecoderKind, order: Literal["little", "big"], before: int, reason: str
) -> None:
    code = b"".join(word.to_bytes(4, order) for word in (before, 0x00A4402B))
    assert refusals(monkeypatch, code, decoder).reason(Site("f"), 0x100900, errno.EINVAL) == reason


@pytest.mark.parametrize("code", [b"\xcc", b"\x0f\x0b"])
def test_a_trap_of_the_kernels_own_is_a_reason(monkeypatch: pytest.MonkeyPatch, code: bytes) -> None:
    reason = refusals(monkeypatch, code).reason(Site("f"), 0x100900, errno.EINVAL)
    assert reason == "instruction that is not stepped"


@pytest.mark.parametrize(
    ("code", "decoder", "reason"),
    [
        pytest.param("0008000080000000", DecoderKind.S390, "bytes that are no instruction", id="data"),
        pytest.param("a7480040", DecoderKind.S390, "", id="lhi"),
        pytest.param("0e", DecoderKind.X86_64, "", id="what only capstone does not know"),
    ],
)
def test_data_is_a_reason_only_where_the_kernel_looks(
    monkeypatch: pytest.MonkeyPatch, code: str, decoder: DecoderKind, reason: str
) -> None:
    finder = refusals(monkeypatch, bytes.fromhex(code), decoder)
    assert finder.reason(Site("load_psw"), 0x100900, errno.EINVAL) == reason


@pytest.mark.parametrize(
    ("code", "reason"),
    [(b"\xcc", "trap, which is not stepped"), (b"\x0f\x0b", "trap, which is not stepped"), (b"\x90", "")],
)
def test_only_a_trap_is_a_reason_for_an_illegal_sequence(
    monkeypatch: pytest.MonkeyPatch, code: bytes, reason: str
) -> None:
    assert refusals(monkeypatch, code).reason(Site("f"), 0x100900, errno.EILSEQ) == reason


@pytest.mark.parametrize(
    ("code", "number", "reason"),
    [
        pytest.param("ff2512345678", errno.EOPNOTSUPP, "call or jump through memory", id="jmp *mem"),
        pytest.param("ff5708", errno.EOPNOTSUPP, "call or jump through memory", id="call *8(%rdi)"),
        pytest.param("ff5708", errno.EINVAL, "", id="the other errno"),
        pytest.param("0f01c1", errno.EOPNOTSUPP, "instruction of virtual machines", id="vmcall"),
        pytest.param("cf", errno.EOPNOTSUPP, "far jump, far call or iret", id="iret"),
        pytest.param("ffe0", errno.EOPNOTSUPP, "", id="jmp *%rax"),
        pytest.param("90", errno.EOPNOTSUPP, "", id="nop"),
    ],
)
def test_x86_steps_nothing_through_memory(monkeypatch: pytest.MonkeyPatch, code: str, number: int, reason: str) -> None:
    assert refusals(monkeypatch, bytes.fromhex(code)).reason(Site("f"), 0x100900, number) == reason


@pytest.mark.parametrize(
    ("address", "table"),
    [(0x100500, "blacklisted"), (0x1005FF, "blacklisted"), (0x100600, ""), (0x100700, "jump label")],
)
def test_a_table_of_the_kernel_reserves_an_address(monkeypatch: pytest.MonkeyPatch, address: int, table: str) -> None:
    assert refusals(monkeypatch).must_refuse(address) == table
