"""Addresses are converted to the closest symbol + offset as the kernel does, and each disagreement is a complaint."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from harness.landing.code import closest_symbol
from harness.landing.code.closest_symbol import (
    ClosestSymbolTable,
    CombinedSymbolTables,
    KernelSymbolOffset,
    LoadedSymbol,
    SymbolOffset,
)
from harness.landing.lookup import data_module
from harness.landing.lookup.closest_symbol_round_trip import Conversion
from harness.landing.lookup.data_module import AddressReadRequest
from harness.landing.probe_module import SiteReport

TABLE = ClosestSymbolTable(
    [
        LoadedSymbol(0x2000, "beta", "target"),
        LoadedSymbol(0x1000, "alpha"),
        LoadedSymbol(0x1010, "first"),
        LoadedSymbol(0x1010, "second"),
        LoadedSymbol(0x1020, "$x"),
        LoadedSymbol(0x1022, "L0\x01"),
        LoadedSymbol(0x1024, ".Lloop"),
        LoadedSymbol(0x1028, "__crc_alpha"),
    ]
)


@pytest.mark.parametrize(
    ("address", "place"),
    [
        (0x0FFF, None),
        (0x1000, SymbolOffset(("alpha",), 0)),
        (0x100F, SymbolOffset(("alpha",), 0xF)),
        (0x1010, SymbolOffset(("first", "second"), 0)),
        (0x1030, SymbolOffset(("first", "second"), 0x20)),
        (0x2004, SymbolOffset(("beta",), 4, "target")),
        (0xFFFFFFFF, SymbolOffset(("beta",), 0xFFFFDFFF, "target")),
    ],
)
def test_closest_is_the_symbol_below_however_far(address: int, place: SymbolOffset | None) -> None:
    assert TABLE.symbol_offset_at(address) == place


def test_tables_side_by_side_each_moved_by_its_own_bytes() -> None:
    both = CombinedSymbolTables(
        (ClosestSymbolTable([LoadedSymbol(0x10, "start"), LoadedSymbol(0x90, "end")]), 0x1000), (TABLE, 0x8000)
    )
    assert [str(both.symbol_offset_at(address)) for address in (0x100F, 0x1090, 0x9008, 0xA001)] == [
        "None",
        "end+0x0",
        "alpha+0x8",
        "beta+0x1 [target]",
    ]


def test_symbols_that_kallsyms_drops_are_no_places() -> None:
    assert str(TABLE.symbol_offset_at(0x1029)) == "first+0x19"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("startup_64+0x0/0x70", KernelSymbolOffset("startup_64", 0)),
        ("pinpoint_leaf+0x1f/0x30 [pinpoint_target]", KernelSymbolOffset("pinpoint_leaf", 0x1F, "pinpoint_target")),
        (
            "pinpoint_dir+0x858/0xffffffffffffec40 [pinpoint_data]",
            KernelSymbolOffset("pinpoint_dir", 0x858, "pinpoint_data"),
        ),
        (
            "pinpoint_cold_part.cold+0x5 pinpoint_target",
            KernelSymbolOffset("pinpoint_cold_part.cold", 5, "pinpoint_target"),
        ),
        ("clock_t_to_jiffies+0x4", KernelSymbolOffset("clock_t_to_jiffies", 4)),
        ("0xffffffffc0244ff0", None),
    ],
)
def test_the_kernels_words_are_read(words: str, expected: KernelSymbolOffset | None) -> None:
    assert closest_symbol.parse_symbol_offset(words) == expected


@pytest.mark.parametrize(
    ("machine", "section", "name"),
    [("EM_PPC64", ".opd", "alpha"), ("EM_PPC64", ".data", ".alpha"), ("EM_PARISC", ".opd", ".alpha")],
)
def test_only_where_functions_have_dots_the_files_lack_them(machine: str, section: str, name: str) -> None:
    kernel: Any = SimpleNamespace(machine=machine, sections_by_name={section: None})
    place = TABLE.symbol_offset_at(0x1004)
    assert not KernelSymbolOffset(".alpha", 4).is_same_place(place)
    assert KernelSymbolOffset(".alpha", 4).named_as_in(kernel) == KernelSymbolOffset(name, 4)
    assert KernelSymbolOffset("..alpha", 4).named_as_in(kernel).is_same_place(place) is False


def test_any_name_of_an_address_means_it_and_no_other_offset_or_module_does() -> None:
    place = TABLE.symbol_offset_at(0x1014)
    assert KernelSymbolOffset("second", 4).is_same_place(place)
    assert not KernelSymbolOffset("second", 8).is_same_place(place)
    assert not KernelSymbolOffset("second", 4, "target").is_same_place(place)
    assert not KernelSymbolOffset("alpha", 4).is_same_place(place)
    assert not KernelSymbolOffset("alpha", 4).is_same_place(None)


def report(address: int, errno: int = 0) -> SiteReport:
    return SiteReport(spec="spec", errno=errno, address=address, hits=0, ip=0)


HELD = Conversion(
    address=0x1014,
    probe_address=0x1014,
    elf_symbol=TABLE.symbol_offset_at(0x1014),
    kernel_symbol=KernelSymbolOffset("first", 4),
    report_by_address=report(0x1014),
    report_by_symbol=report(0x1014),
    listed_symbol=KernelSymbolOffset("first", 4),
)


def test_a_way_there_and_back_has_no_complaint() -> None:
    assert HELD.complaint == ""
    assert (
        replace(HELD, report_by_address=report(0, 22), report_by_symbol=report(0, 22), listed_symbol=None).complaint
        == ""
    )


def test_an_entry_past_its_landing_pad_is_listed_there() -> None:
    padded = replace(
        HELD,
        address=0x1010,
        probe_address=0x1014,
        elf_symbol=TABLE.symbol_offset_at(0x1010),
        kernel_symbol=KernelSymbolOffset("first", 0),
    )
    assert padded.complaint == ""
    assert (
        replace(padded, listed_symbol=KernelSymbolOffset("first", 0)).complaint
        == "kprobes/list has another symbol for it"
    )


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"kernel_symbol": KernelSymbolOffset("alpha", 0x14)}, "the ELF files and the kernel find different symbols"),
        ({"elf_symbol": None}, "the ELF files and the kernel find different symbols"),
        ({"report_by_symbol": report(0, 84)}, "the kernel returned different errnos"),
        (
            {"report_by_address": report(0, 22), "report_by_symbol": report(0, 84)},
            "the kernel returned different errnos",
        ),
        ({"report_by_symbol": report(0x1018)}, "not registered at the requested place"),
        (
            {"report_by_address": report(0x1018), "report_by_symbol": report(0x1018)},
            "not registered at the requested place",
        ),
        ({"listed_symbol": None}, "kprobes/list has another symbol for it"),
        ({"listed_symbol": KernelSymbolOffset("second", 8)}, "kprobes/list has another symbol for it"),
    ],
)
def test_each_disagreement_is_a_complaint(wrong: dict[str, object], complaint: str) -> None:
    broken = replace(HELD, **wrong)  # type: ignore[arg-type]
    assert complaint in broken.complaint
    assert "0x1014" in str(broken)


def test_questions_are_written_as_the_module_reads_them() -> None:
    assert AddressReadRequest(0xFFFF0010).spec == "0xffff0010/0"
    assert AddressReadRequest(0x35000, 4, cpu=0).spec == "0x35000/4@0"


def test_answers_are_read_with_their_symbols() -> None:
    held, unmapped = data_module.parse_results(
        "spec=0x1010/4 address=0x1010 bytes=014e4950 errno=0 symbol=first+0x0/0x10 [target]\n"
        "spec=0x35000/4@0 address=0xffff9010 bytes= errno=14 symbol=0x35000\n"
    )
    assert (held.address, held.content, held.errno) == (0x1010, bytes.fromhex("014e4950"), 0)
    assert held.symbol == KernelSymbolOffset("first", 0, "target")
    assert (unmapped.address, unmapped.content, unmapped.errno, unmapped.symbol) == (0xFFFF9010, b"", 14, None)
