"""Relocation by hand computes its addresses correctly, classifies what is there, and reports it in a table."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.core.architecture import DecoderKind
from harness.core.architecture_table import ARCHITECTURES
from harness.core.elf_symbols_and_relocations import Section, Symbol
from harness.images.vm_recipe import Traits
from harness.landing.checks.classify_address import AddressClassifier, AddressKind
from harness.landing.checks.embedded_symbol_table_cost import measure_compiled_relocation_data
from harness.landing.code.instructions import instruction_starts_of_function, is_padding_instruction_at, is_stub_at
from harness.landing.lookup.kallsyms_ambiguous_and_freed_names import functions_missed_by_symbol
from harness.landing.site import Site
from harness.landing.systemtap_relocation_by_hand import RelocationByHandCalculator
from harness.report.html import write_report_of_run
from harness.report.metrics_with_goals import Figures
from harness.report.relocation_by_hand_table import TrialRow, Trials
from harness.report.run_dir import RunDirectory
from harness.report.summary import write_summary

SLIDE = 0x200000
LDIL, BE = 0x20204000, 0xE0202002  # ldil L'...,%r1; be,n R'...(%sr4,%r1)


class FakeElf:
    """The part of an ELF file that relocation by hand reads."""

    def __init__(self, symbols: dict[str, tuple[str, int, int]], sections: dict[str, tuple[int, int, bytes]]) -> None:
        self.path, self.linked = Path("fake"), True
        self.sections_by_name = {
            name: Section(name, address, offset, len(code), True, True, True, 4)
            for name, (address, offset, code) in sections.items()
        }
        self.symbols = [
            Symbol(name, address, size, section, "func" if size else "notype", "global")
            for name, (section, address, size) in symbols.items()
        ]
        self._code = {name: (address, code) for name, (address, _, code) in sections.items()}

    @property
    def text_range(self) -> range:
        return range(*(self.symbols_named(name)[0].address for name in ("_stext", "_etext")))

    def symbols_named(self, name: str) -> list[Symbol]:
        return [symbol for symbol in self.symbols if symbol.name == name]

    def function(self, name: str) -> Symbol:
        return self.symbols_named(name)[0]

    def function_bytes(self, symbol: Symbol) -> bytes:
        address, code = self._code[symbol.section]
        return code[symbol.address - address :][: symbol.size]

    def bytes_at(self, address: int, size: int) -> bytes:
        start, code = self._code[".text"]
        return code[address - start :][:size]


def kernel(order: str, gap: bytes = b"") -> FakeElf:
    """Return a kernel of 16-byte functions in this order, one letter each, with a gap after the first."""
    code = b"\x90" * 11 + bytes.fromhex("b801000000")
    functions, place, text = {}, 0x1000, b""
    for letter in order:
        functions[letter] = (".text", place, 16)
        text += code + (gap if letter == order[0] else b"")
        place = 0x1000 + len(text)
    borders = {"_stext": (".text", 0x1000, 0), "_etext": (".text", place, 0)}
    return FakeElf({**functions, **borders}, {".text": (0x1000, 0x400, text)})


def module(**places: int) -> FakeElf:
    """Return a module whose functions are in sections `.text.NAME` at these file offsets."""
    return FakeElf(
        {name: (f".text.{name}", 0, 16) for name in places},
        {f".text.{name}": (0, offset, bytes(16)) for name, offset in places.items()},
    )


def layout(vmlinux: FakeElf, slide: int = SLIDE, arch: str = "x86_64", **targets: Any) -> Any:  # noqa: ANN401 - stands in
    def base(symbol: Symbol, name: str) -> int:
        return symbol.address + (targets[name].sections[symbol.section] if name else slide)

    guest = SimpleNamespace(architecture=ARCHITECTURES[arch])
    linked = vmlinux.text_range if vmlinux.symbols_named("_etext") else range(0)
    text = range(linked.start + slide, linked.stop + slide)
    return SimpleNamespace(
        guest=guest, kernel=vmlinux, slide=slide, targets=targets, symbol_address=base, text_range=text
    )


def test_stext_and_offset_lands_on_the_kernel_it_was_made_for_whatever_its_slide() -> None:
    assert RelocationByHandCalculator(layout(kernel("abc"))).address(Site("c", 4)) == 0x1000 + SLIDE + 0x24


def test_another_order_moves_what_stands_there() -> None:
    here = layout(kernel("abc"))
    by_hand = RelocationByHandCalculator(here, vmlinux=kernel("cab"))  # type: ignore[arg-type]
    assert by_hand.address(Site("a")) == 0x1010 + SLIDE
    assert AddressClassifier(here).function_site_at(by_hand.address(Site("a"))) == Site("b")


def test_the_landing_pad_of_a_function_whose_name_occurs_twice_is_known() -> None:
    elf = kernel("abc")
    elf.symbols = [each._replace(name="a") if each.name == "c" else each for each in elf.symbols]
    here = layout(elf)
    here.landing_pad_size_of = lambda _, symbol: 4 if symbol.name == "a" else 0
    places = AddressClassifier(here)
    starts = [0x1000 + SLIDE + distance for distance in (0, 0x10, 0x20)]
    assert [places.function_site_at(start) for start in starts] == [None, Site("b"), None]
    assert [places.landing_pad_size_at(start) for start in starts] == [4, 0, 4]
    assert places.landing_pad_size_at(starts[0] + 4) == 0


def test_a_link_time_address_knows_no_slide() -> None:
    assert RelocationByHandCalculator(layout(kernel("abc")), absolute=True).address(Site("b")) == 0x1010


def test_a_modules_offset_counts_from_its_first_loaded_text_in_the_file() -> None:
    target = SimpleNamespace(elf=module(f=0x40, g=0x60), sections={".text.f": 0x9000, ".text.g": 0x9038})
    by_hand = RelocationByHandCalculator(layout(kernel("abc"), m=target))
    assert by_hand.address(Site("g", 4, module="m")) == 0x9024  # 0x14 before where it is
    other = RelocationByHandCalculator(layout(kernel("abc"), m=target), modules={"m": module(g=0x40, f=0x50)})  # type: ignore[dict-item]
    assert other.address(Site("f", module="m")) == 0x9010


def test_the_probe_module_is_given_bases_and_offsets_and_adds_them_itself() -> None:
    target = SimpleNamespace(elf=module(f=0x40, g=0x60), sections={".text.f": 0x9000, ".text.g": 0x9038})
    sites = [Site("b"), Site("g", 4, module="m"), Site("a")]
    request = RelocationByHandCalculator(layout(kernel("abc"), m=target)).build_request(sites, "disabled=1")
    assert request.module == "pinpoint_byhand"
    assert request.parameters == [f"base={0x1000 + SLIDE:#x},0x9000", "disabled=1"]
    assert request.specs == ["0+0x10", "1+0x24", "0+0x0"]


@pytest.mark.parametrize(
    ("offset", "place"),
    [
        (0x0, AddressKind.INSTRUCTION),
        (0xB, AddressKind.INSTRUCTION),
        (0xC, AddressKind.MID_INSTRUCTION),
        (0x10, AddressKind.PADDING),
        (0x16, AddressKind.PADDING),  # inside a nop of six bytes: still padding
        (0x1A, AddressKind.UNNAMED),
        (0x20, AddressKind.INSTRUCTION),
        (0x50, AddressKind.OUTSIDE),
        (-1, AddressKind.OUTSIDE),
    ],
)
def test_places_of_a_kernel(offset: int, place: AddressKind) -> None:
    # Between the first two functions are four int3, a long nop, then code without a symbol.
    gap = b"\xcc" * 4 + bytes.fromhex("660f1f440000") + b"\x0f\x0b\x0f\x0b\x0f\x0b"
    assert AddressClassifier(layout(kernel("abc", gap))).classify(0x1000 + SLIDE + offset) is place


def test_inside_of_what_the_kernel_patches_an_instruction_may_start() -> None:
    body = b"\xb8\1\0\0\0" + b"\xe9\0\0\0\0"  # mov, then a jump: to a return thunk, perhaps
    elf = FakeElf(
        {"_stext": (".text", 0x1000, 0), "a": (".text", 0x1000, 10), "_etext": (".text", 0x100A, 0)},
        {".text": (0x1000, 0x400, body)},
    )
    places = AddressClassifier(layout(elf, slide=0))
    assert places.classify(0x1007) is AddressKind.MID_INSTRUCTION
    assert [places.is_inside_instruction(0x1000 + offset) for offset in (0, 2, 5, 7, 12)] == [
        False,
        True,
        False,
        False,
        False,
    ]


def test_stubs_of_a_parisc_kernel() -> None:
    gap = struct.pack(">6I", LDIL, BE, LDIL, BE, 0, 0)
    places = AddressClassifier(layout(kernel("ab", gap), arch="parisc"))
    seen = [places.classify(0x1010 + SLIDE + offset) for offset in range(0, len(gap), 4)]
    assert seen == [AddressKind.STUB] * 4 + [AddressKind.PADDING] * 2
    assert places.classify(0x1000 + SLIDE + 2) is AddressKind.MID_INSTRUCTION


def test_veneers_of_an_arm64_module() -> None:
    veneer = bytes.fromhex("704d1df010423f9100021fd6")  # as the loader of Debian's 6.1 wrote one
    seen = [is_stub_at(b"\0" * 4 + veneer + b"\0" * 4, offset, DecoderKind.AARCH64) for offset in range(0, 20, 4)]
    assert seen == [False, True, True, True, False]


def test_a_call_through_another_register_is_no_stub() -> None:
    other = struct.pack(">2I", 0x20404000, 0xE0402002)
    assert not is_stub_at(other, 0, DecoderKind.PARISC)
    assert not is_stub_at(struct.pack(">2I", LDIL, BE), 0, DecoderKind.AARCH64)


def test_starts_are_found_without_knowing_what_each_does() -> None:
    elf = kernel("a")
    assert list(instruction_starts_of_function(elf, elf.function("a"), DecoderKind.X86_64))[-2:] == [10, 11]  # type: ignore[arg-type]
    assert list(instruction_starts_of_function(elf, elf.function("a"), DecoderKind.PARISC)) == [0, 4, 8, 12]  # type: ignore[arg-type]
    assert is_padding_instruction_at(b"\x90\xb8\1\0\0\0", 0, DecoderKind.X86_64)
    assert not is_padding_instruction_at(b"\x90\xb8\1\0\0\0", 1, DecoderKind.X86_64)


def test_names_are_taken_as_the_kernel_takes_them() -> None:
    listing = "0800 D f\n1000 T f\n2000 t f\n3000 t f\t[m]\n4000 t g\t[m]\n"

    def run(program: str, pattern: str, file: str) -> subprocess.CompletedProcess[str]:
        assert file == "/proc/kallsyms"
        return subprocess.run([program, pattern], input=listing, capture_output=True, text=True, check=False)

    image = SimpleNamespace(recipe=SimpleNamespace(traits=Traits()))
    guest = SimpleNamespace(
        guest=SimpleNamespace(run=run, image=image),
        kernel=SimpleNamespace(machine="EM_X86_64", sections_by_name={}),
    )
    wanted = [(Site("f"), 0x1000), (Site("f", module="m"), 0x3000), (Site("g", module="m"), 0x4000)]
    assert functions_missed_by_symbol(guest, wanted) == []  # type: ignore[arg-type]
    assert functions_missed_by_symbol(guest, wanted[1:]) == []  # type: ignore[arg-type]
    moved = (Site("g", module="m"), 0x3000)
    assert functions_missed_by_symbol(guest, [wanted[1], moved]) == [moved[0]]  # type: ignore[arg-type]
    absent = Site("absent")
    assert functions_missed_by_symbol(guest, [(Site("f"), 0x2000), (absent, 0)]) == [Site("f"), absent]  # type: ignore[arg-type]


def test_tables_are_measured_as_compiled() -> None:
    by_hand = RelocationByHandCalculator(layout(kernel("abc")))
    carried = measure_compiled_relocation_data(ARCHITECTURES["x86_64"], by_hand, [Site("a"), Site("b"), Site("c")])
    # A word and a pointer for each name of two bytes; a word for each site; a pointer and a padded int for each site.
    assert carried == (3 * (8 + 8 + 2), 3 * (8 + 8 + 2) + 3 * 8, 3 * (8 + 8 + 2))


ROW = TrialRow(
    vm="parisc",
    trial="other-order",
    made_for="its-sibling",
    symbols=14_584,
    missed=14_500,
    instruction=14_000,
    mid_instruction=0,
    in_stub=400,
    in_padding=50,
    unnamed_code=50,
    outside_text=0,
    missed_by_symbol=0,
    table_bytes=400_000,
    by_hand_bytes=450_000,
    by_symbol_bytes=400_000,
)


def test_a_trial_is_a_row_and_figures_and_a_headline_the_vms_own(tmp_path: Path) -> None:
    directory = RunDirectory.create(tmp_path)
    trials = Trials(directory, Figures(directory))
    trials.add(ROW, headline=True)
    assert trials.read() == [ROW]
    figures = {figure.figure: figure for figure in Figures(directory).read()}
    assert (figures["byhand.symbols"].value, figures["byhand.missed"].value) == (14_584, 14_500)
    assert figures["byhand.other-order.in_stub"].value == 400
    assert figures["bysymbol.missed"].goal == "0"
    assert figures["bysymbol.missed"].holds
    trials.add(ROW.model_copy(update={"trial": "module", "missed_by_symbol": 2}), headline=False)
    later = Figures(directory).read()[len(figures) :]
    assert {figure.figure.count(".") for figure in later} == {2}
    assert [figure.figure for figure in later if not figure.holds] == ["bysymbol.module.missed"]


def test_the_table_is_in_the_summary_and_in_the_report(tmp_path: Path) -> None:
    directory = RunDirectory.create(tmp_path)
    Trials(directory, Figures(directory)).add(ROW, headline=True)
    lines: list[str] = []
    write_summary(lines.append, [], {}, [], trials=[ROW])
    (shown,) = [line for line in lines if "its-sibling" in line]
    assert shown.split()[:6] == ["parisc", "other-order", "its-sibling", "14,584", "14,500", "14,000"]
    page = write_report_of_run(directory).read_text()
    assert '<td class="number">14,500</td>' in page
    assert "into stub" in " ".join(page.split())
