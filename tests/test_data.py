"""Variables are found by symbol; each witness and mutant reports the right address; offsets by hand miss them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.core.elf_symbols_and_relocations import Section, Symbol
from harness.core.errors import GuestError
from harness.images.vm_recipe import Traits
from harness.landing.code.closest_symbol import ClosestSymbolTable, KernelSymbolOffset, LoadedSymbol
from harness.landing.lookup import data_symbol_address as addresses
from harness.landing.lookup.data_check import DataReader
from harness.landing.lookup.data_symbol_address import Datum, count_variables_shifted_between_kernels
from harness.landing.mutants import MUTANTS

SLIDE = 0x100000
TEXT, DATA = 0x4000, 0x9000
POINTER = 0x35000


class FakeElf:
    """The part of an ELF file that finds variables: sections by name, symbols as (name, section, address)."""

    path = Path("fake")
    machine = "EM_X86_64"
    word_bytes = 8
    byte_order = "little"

    def __init__(self, sections: dict[str, tuple[int, int, int]], symbols: list[tuple[str, str, int]]) -> None:
        self.sections_by_name = {
            name: Section(name, address, offset, size, name == ".text", True, True, 8)
            for name, (address, offset, size) in sections.items()
        }
        self.symbols = [Symbol(name, address, 4, section, "object", "local") for name, section, address in symbols]

    def symbols_named(self, name: str) -> list[Symbol]:
        return [symbol for symbol in self.symbols if symbol.name == name]

    def offset_in_section(self, symbol: Symbol) -> int:
        return symbol.address - self.sections_by_name[symbol.section].address


MODULE = FakeElf(
    {".text": (0, 0x40, 0x100), ".data": (0, 0x200, 0x30), ".data..percpu": (0, 0x300, 8)},
    [
        ("pinpoint_data_word", ".data", 0x20),
        ("next", ".data", 0x28),
        ("pinpoint_percpu_place", ".data", 0x8),
        ("pinpoint_percpu_word", ".data..percpu", 0),
    ],
)


def kernel(*, text: int = 0x1000, before: int = 0, per_cpu: int | None = None, end: int | None = None) -> FakeElf:
    """Return a kernel with variables a, b and c, with `before` bytes inserted before b.

    Per-CPU variables are linked at `per_cpu`, and the kernel's end at `end`.
    """
    symbols = [("a", ".data", 0x8000), ("b", ".data", 0x8010 + before), ("c", ".data", 0x8020 + before)]
    symbols += [("_stext", ".text", text), ("_sdata", ".data", 0x8000), ("twice", ".data", 1), ("twice", ".data", 2)]
    sections = {".text": (text, 0, 0x100), ".data": (0x8000, 0x100, 0x100)}
    if per_cpu is not None:
        sections[".data..percpu"] = (per_cpu, 0x200, 0x100)
        symbols += [(name, ".data..percpu", per_cpu + at) for name, at in (("__per_cpu_start", 0), ("cpu_word", 8))]
        symbols.append(("__per_cpu_end", ".data..percpu", per_cpu + 0x100))
    if end is not None:
        symbols.append(("_end", ".data", end))
    return FakeElf(sections, symbols)


def layout(vmlinux: FakeElf | None = None, *, data_symbols: bool = True, kallsyms: str = "") -> Any:  # noqa: ANN401 - stands in
    target = SimpleNamespace(elf=MODULE, sections={".text": TEXT, ".data": DATA})
    guest = SimpleNamespace(
        image=SimpleNamespace(recipe=SimpleNamespace(traits=Traits())),
        traits=SimpleNamespace(data_symbols=data_symbols),
        memory=SimpleNamespace(
            read=lambda address, size: POINTER.to_bytes(size, "little") if address == DATA + 8 else b""
        ),
        run=lambda *_: SimpleNamespace(stdout=kallsyms),
        read_text=lambda _: f"pinpoint_data_word {DATA + 0x20:#x}\n",
    )
    return SimpleNamespace(
        guest=guest,
        kernel=vmlinux or kernel(),
        slide=SLIDE,
        targets={"m": target},
        symbol_address=lambda symbol, module: symbol.address + (target.sections[symbol.section] if module else SLIDE),
        closest_symbols=ClosestSymbolTable(
            [LoadedSymbol(DATA + 0x20, "pinpoint_data_word", "m"), LoadedSymbol(DATA + 0x28, "next", "m")]
        ),
    )


def test_section_and_offset_or_address_and_slide() -> None:
    assert addresses.address_by_elf(layout(), Datum("pinpoint_data_word", 4, module="m")) == DATA + 0x20
    assert addresses.address_by_elf(layout(), Datum("b", 4, offset=2)) == 0x8012 + SLIDE


def test_per_cpu_variables_linked_from_zero_do_not_slide() -> None:
    assert addresses.address_by_elf(layout(kernel(per_cpu=0)), Datum("cpu_word", 4, cpu=0)) == 8
    assert addresses.address_by_elf(layout(kernel(per_cpu=0)), Datum("b", 4)) == 0x8010 + SLIDE
    assert addresses.address_by_elf(layout(kernel(per_cpu=0x9000)), Datum("cpu_word", 4, cpu=0)) == 0x9008 + SLIDE


def test_a_section_that_sysfs_does_not_list_is_found_by_the_relocated_pointer() -> None:
    assert addresses.address_by_elf(layout(), Datum("pinpoint_percpu_word", 4, module="m", cpu=0)) == POINTER


@pytest.mark.parametrize("symbol", ["nowhere", "twice"])
def test_a_name_of_none_or_several_is_no_datum(symbol: str) -> None:
    with pytest.raises(GuestError, match=f"symbols are named {symbol}"):
        addresses.address_by_elf(layout(), Datum(symbol, 4))


def test_the_mutants_point_elsewhere() -> None:
    datum = Datum("pinpoint_data_word", 4, module="m")
    assert addresses.address_of_next_symbol(layout(), datum) == DATA + 0x28
    assert addresses.address_of_next_symbol(layout(), Datum("next", 4, module="m")) == DATA + 0x30
    assert addresses.address_by_text_base(layout(), datum) == TEXT + 0x200 - 0x40 + 0x20


@pytest.mark.parametrize(
    ("listing", "address"),
    [
        (f"{DATA + 0x20:016x} d pinpoint_data_word\t[m]\n", DATA + 0x20),
        (f"{DATA:016x} d pinpoint_data_word\n{DATA + 0x20:016x} d pinpoint_data_word\t[m]\n", DATA + 0x20),
        ("0000000000001000 d pinpoint_data_word\t[other]\n", None),
        ("0000000000001000 d x.pinpoint_data_word\t[m]\n", None),
        ("0000000000001000 d pinpoint_data_word\t[m]\n" * 2, None),
        ("", None),
    ],
)
def test_kallsyms_makes_a_statement_when_it_lists_the_symbol_once(listing: str, address: int | None) -> None:
    output = addresses.kallsyms_statement(layout(kallsyms=listing), Datum("pinpoint_data_word", 4, module="m"))
    assert output.address == address


def test_the_kernels_closest_symbol_agrees_contradicts_or_is_silent() -> None:
    datum = Datum("pinpoint_data_word", 4, module="m")
    here, named = DATA + 0x20, KernelSymbolOffset("pinpoint_data_word", 0, "m")
    assert addresses.closest_symbol_statement(layout(), datum, here, named).address == here
    assert addresses.closest_symbol_statement(
        layout(), datum, DATA + 0x28, KernelSymbolOffset("next", 0, "m")
    ).contradicts
    blind = addresses.closest_symbol_statement(
        layout(data_symbols=False), datum, here, KernelSymbolOffset("last_function", 0x1234, "m")
    )
    assert (blind.address, blind.contradicts) == (None, False)
    assert addresses.closest_symbol_statement(layout(), datum, here, None).address is None


def test_the_module_reports_its_words() -> None:
    assert (
        addresses.target_parameter_statement(layout(), Datum("pinpoint_data_word", 4, module="m")).address
        == DATA + 0x20
    )
    assert addresses.target_parameter_statement(layout(), Datum("next", 4, module="m")).address is None
    assert addresses.target_parameter_statement(layout(), Datum("b", 4)).address is None


def test_what_offsets_of_another_kernel_miss() -> None:
    assert count_variables_shifted_between_kernels(kernel(), kernel()) == (4, 0, 0)  # type: ignore[arg-type]
    assert count_variables_shifted_between_kernels(kernel(), kernel(text=0x2000)) == (4, 4, 0)  # type: ignore[arg-type]
    assert count_variables_shifted_between_kernels(kernel(), kernel(before=8)) == (4, 2, 2)  # type: ignore[arg-type]


def test_numbers_are_in_the_guests_order() -> None:
    big = kernel()
    big.byte_order = "big"
    assert DataReader(layout()).encode_number(0x50494E01, 4) == bytes.fromhex("014e4950")
    assert DataReader(layout(big)).encode_number(0x50494E01, 4) == bytes.fromhex("50494e01")


def test_every_mutant_of_data_is_one() -> None:
    assert MUTANTS["next-data-symbol"].compute_datum_address is addresses.address_of_next_symbol
    assert MUTANTS["data-by-text-base"].compute_datum_address is addresses.address_by_text_base
    assert MUTANTS["reads-next-word"].reads_after_datum


def test_the_end_of_the_kernels_per_cpu_data_names_a_modules_first_variable() -> None:
    vmlinux = kernel(per_cpu=0x9000)
    end = 0x9100 + SLIDE
    datum = Datum("pinpoint_percpu_word", 4, module="m", cpu=0)
    shown = KernelSymbolOffset("__per_cpu_end", 0, "")
    assert addresses.closest_symbol_statement(layout(vmlinux), datum, end, shown).address == end
    # The same name contradicts for another address, another offset, or a variable that is not per-CPU.
    assert addresses.closest_symbol_statement(layout(vmlinux), datum, end + 8, shown).contradicts
    assert addresses.closest_symbol_statement(
        layout(vmlinux), datum, end + 8, KernelSymbolOffset("__per_cpu_end", 8, "")
    ).contradicts
    assert addresses.closest_symbol_statement(
        layout(vmlinux), Datum("pinpoint_percpu_word", 4, module="m"), end, shown
    ).contradicts


def test_vmlinux_names_a_modules_variable_that_is_below_its_end() -> None:
    vmlinux = kernel(per_cpu=0x9000)
    datum = Datum("pinpoint_percpu_word", 4, module="m", cpu=0)
    shown, place = KernelSymbolOffset("__per_cpu_end", 8, ""), 0x9108 + SLIDE
    assert addresses.closest_symbol_statement(layout(vmlinux), datum, place, shown).contradicts
    vmlinux = kernel(per_cpu=0x9000, end=0x9200)
    assert addresses.closest_symbol_statement(layout(vmlinux), datum, place, shown).address == place
    # Another symbol, another offset, and an address that vmlinux does not have, still contradict.
    for name, offset, at in (("cpu_word", 8, 0), ("__per_cpu_end", 4, 0), ("__per_cpu_end", 0x108, 0x100)):
        other = KernelSymbolOffset(name, offset, "")
        assert addresses.closest_symbol_statement(layout(vmlinux), datum, place + at, other).contradicts
