"""An escaped probe is reported and never a landing; a kernel's single-step defects show by their own symptoms."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from harness.core.elf import Elf
from harness.core.elf_symbols_and_relocations import Section, Symbol
from harness.core.single_step_defect_types import Defect, Symptom
from harness.landing.checks.probe_flags import select_sites_apart
from harness.landing.checks.single_step_result import MostFrequentCpuAddress, SingleStepResult
from harness.landing.five_address_witnesses import Statement
from harness.landing.landing_judgment import Landing, Missed, prove_landings
from harness.landing.layout import Layout
from harness.landing.past_end import describe_outside_address, expect_escape, is_in_any_function, next_function
from harness.landing.site import Site
from harness.landing.target import Target

SITE = Site("leaf", 0x30, module="target")
AGREED = [Statement(name, 0x1030) for name in ("reported", "listed", "elf", "outside")]


def landing(escaped: str, statements: list[Statement] = AGREED) -> Landing:
    return Landing(SITE, statements, 0, lambda address: f"leaf+{address - 0x1000:#x}", escaped)


def test_an_escape_is_no_landing_though_all_witnesses_agree() -> None:
    with pytest.raises(Missed, match=r"escaped into next symbol calls\+0x0") as caught:
        prove_landings([landing("next symbol calls+0x0")])
    assert str(caught.value).splitlines()[-1] == "escaped into next symbol calls+0x0"


def test_the_results_record_an_escape() -> None:
    assert landing("stub before .text.calls").record()["escaped"] == "stub before .text.calls"
    assert "escaped" not in landing("").record()


def test_an_escape_is_expected_where_it_went() -> None:
    expect_escape(landing("next symbol calls+0x0"), "next symbol calls+0x0")
    for other in ("", "padding after leaf"):
        with pytest.raises(Missed, match="not reported as escaped into 'next symbol"):
            expect_escape(landing(other), "next symbol")


def test_an_escape_of_which_the_witnesses_disagree_is_a_miss() -> None:
    with pytest.raises(Missed, match="disagree"):
        expect_escape(landing("next symbol calls+0x0", [*AGREED, Statement("trapped", 0x1034)]), "next symbol")


LEAF = Symbol("leaf", 0x10, 0x30, ".text.leaf", "func", "global")
CALLS = Symbol("calls", 0, 0x20, ".text.calls", "func", "global")
GONE = Symbol("setup", 0, 0x400, ".init.text", "func", "local")
LOADED = {".text.leaf": 0x1000, ".text.calls": 0x1080, ".init.text": 0x1000}


class FakeElf:
    """A module's file: .text.leaf of 0x50 bytes, .text.calls after it, and .init.text, whose memory leaf reuses."""

    symbols = (GONE, LEAF, CALLS)
    sections_by_name = {name: Section(name, 0, 0, 0x50, True, True, True, 4) for name in LOADED}  # noqa: RUF012 - read only

    def function(self, name: str) -> Symbol:
        return next(symbol for symbol in self.symbols if symbol.name == name)


class NoFunctions:
    """A vmlinux without symbols."""

    symbols = ()
    sections_by_name = ()


class FakeLayout(SimpleNamespace):
    """The layout of a guest with that module; the real code selects its functions."""

    functions = Layout.functions

    def elf_and_symbol(self, site: Site) -> tuple[FakeElf, Symbol]:
        return FakeElf(), FakeElf().function(site.symbol)

    def symbol_address(self, symbol: Symbol, _: str) -> int:
        return LOADED[symbol.section] + symbol.address

    def probe_address(self, site: Site) -> int:
        return self.symbol_address(self.elf_and_symbol(site)[1], site.module) + site.offset


def layout(*, stubs: bool) -> Layout:
    target = Target.__new__(Target)
    target.elf, target.sections = cast(Elf, FakeElf()), LOADED
    kernel = NoFunctions()
    guest = SimpleNamespace(traits=SimpleNamespace(module_stubs=stubs))
    return cast(Layout, FakeLayout(guest=guest, targets={"target": target}, kernel=kernel, slide=0))


@pytest.mark.parametrize(
    ("address", "stubs", "reported"),
    [
        pytest.param(0x1010, True, "", id="entry"),
        pytest.param(0x103F, True, "", id="last-byte"),
        pytest.param(0x1040, True, "padding after leaf", id="same-section"),
        pytest.param(0x1050, True, "stub before .text.calls", id="between-sections"),
        pytest.param(0x1050, False, "padding after leaf", id="no-stubs-here"),
        pytest.param(0x1084, True, "next symbol calls+0x4", id="next"),
    ],
)
def test_into_what_a_probe_on_leaf_went(address: int, stubs: bool, reported: str) -> None:
    assert describe_outside_address(layout(stubs=stubs), SITE.at_offset(0), address) == reported


def test_the_next_function_is_not_one_that_was_freed() -> None:
    assert next_function(layout(stubs=True), SITE.at_offset(0)).name == "calls"


@pytest.mark.parametrize(
    ("offset", "lands"),
    [
        pytest.param(0, 0x1010, id="entry-without-a-pad"),
        pytest.param(0x4, 0x1014, id="inside"),
        pytest.param(0x70, 0x1084, id="entry-in-the-next-section"),
        pytest.param(0x74, 0x1084, id="behind-its-pad"),
        pytest.param(0x72, 0x1082, id="inside-its-pad"),
    ],
)
def test_a_pad_moves_a_probe_on_the_entry_of_the_next_function(offset: int, lands: int) -> None:
    """The kernel looks at what is at the address, and not at the section that the file has it in."""

    class PaddedLayout(FakeLayout):
        probe_address = Layout.probe_address
        _entered_past_end = Layout._entered_past_end
        _moves_only_names = False

        def landing_pad_size_of(self, _: FakeElf, symbol: Symbol) -> int:
            return 4 if symbol is CALLS else 0

    padded = cast(Layout, PaddedLayout(**vars(layout(stubs=False))))
    assert padded.probe_address(SITE.at_offset(offset)) == lands


@pytest.mark.parametrize(("offset", "lands"), [(0, 0x101C), (4, 0x1014), (12, 0x101C), (0x70, 0x1080)])
def test_where_only_names_are_moved_an_address_is_not(offset: int, lands: int) -> None:
    """Symbol + 0 goes to ftrace's site; another offset, and the entry of the next function by its address, do not."""

    class NamesLayout(FakeLayout):
        probe_address = Layout.probe_address
        address_to_request = Layout.address_to_request
        _moves_only_names = True

        def entry_shift_of(self, *_: object) -> int:
            return 12

    moved = cast(Layout, NamesLayout(**vars(layout(stubs=False))))
    assert moved.probe_address(SITE.at_offset(offset)) == lands
    assert moved.address_to_request(SITE.at_offset(offset)) == lands


def test_in_a_function_or_not() -> None:
    assert is_in_any_function(layout(stubs=True), 0x1090)
    assert not is_in_any_function(layout(stubs=True), 0x1050)


def outcome(probed: str, hits: int, missed: int = 0, stands: MostFrequentCpuAddress | None = None) -> SingleStepResult:
    return SingleStepResult(SITE, 8, "0xfeed", probed, hits, missed, stands)


EXACT = outcome("0xfeed", 8)
SHOWS = {
    Symptom.WRONG_RESULT: replace(outcome("0xbad", 8), skipped_checksum="0xbad"),
    Symptom.SAME_RESULT_HITS_MISSED: outcome("0xfeed", 1, 7),
    Symptom.HITS_LOST: replace(outcome("0xfeed", 8), runs=24),
    Symptom.KILLED_BY_OOPS: replace(outcome("", 0), error="the guest's shell ended", oops="illegal operation: 0001"),
    Symptom.TRAPS_AT_PROBE: outcome(
        "", 0, stands=MostFrequentCpuAddress("leaf+0x30", 12, 24, in_function=True, at_probe=True)
    ),
    Symptom.TRAPS_WITHOUT_END: outcome("", 0, stands=MostFrequentCpuAddress("leaf+0x30", 12, 24, in_function=False)),
}


@pytest.mark.parametrize("symptom", Symptom)
def test_a_defect_shows_by_its_own_symptom_only(symptom: Symptom) -> None:
    defect = Defect(symptom, "why", oops="illegal operation: 0001")
    SHOWS[symptom].demand_symptom(defect)
    for other in SHOWS.values():
        if other is not SHOWS[symptom]:
            with pytest.raises(Missed, match=f"not the documented defect, {symptom.value}"):
                other.demand_symptom(defect)


@pytest.mark.parametrize(
    "change",
    [
        {"probed_checksum": "0xdead"},
        {"skipped_checksum": ""},
        {"hits": 7},
        {"missed": 1},
        {"probed_checksum": "0xfeed", "skipped_checksum": "0xfeed"},
    ],
)
def test_another_wrong_result_is_not_the_documented_one(change: dict[str, str | int]) -> None:
    wrong = replace(SHOWS[Symptom.WRONG_RESULT], **change)  # type: ignore[arg-type]
    with pytest.raises(Missed, match="not the documented defect, wrong result"):
        wrong.demand_symptom(Defect(Symptom.WRONG_RESULT, "why"))


@pytest.mark.parametrize("change", [{"hits": 9}, {"runs": 8}, {"missed": 16}, {"probed_checksum": "0xbad"}])
def test_other_lost_hits_are_not_the_documented_ones(change: dict[str, int | str]) -> None:
    wrong = replace(SHOWS[Symptom.HITS_LOST], **change)  # type: ignore[arg-type]
    with pytest.raises(Missed, match="not the documented defect, hits lost"):
        wrong.demand_symptom(Defect(Symptom.HITS_LOST, "why"))


@pytest.mark.parametrize("change", [{"at_probe": False}, {"times_found": 7}, {"sample_count": 121}])
def test_a_guest_that_is_elsewhere_does_not_trap_at_its_probe(change: dict[str, int | bool]) -> None:
    seen = SHOWS[Symptom.TRAPS_AT_PROBE].cpu_address
    assert seen
    wrong = replace(SHOWS[Symptom.TRAPS_AT_PROBE], cpu_address=replace(seen, **change))  # type: ignore[arg-type]
    with pytest.raises(Missed, match="not the documented defect, traps at the probe"):
        wrong.demand_symptom(Defect(Symptom.TRAPS_AT_PROBE, "why"))


@pytest.mark.parametrize("oops", ["", "Unable to handle kernel pointer dereference"])
def test_another_oops_is_not_the_documented_one(oops: str) -> None:
    wrong = replace(SHOWS[Symptom.KILLED_BY_OOPS], oops=oops)
    with pytest.raises(Missed, match="not the documented defect, killed by an oops"):
        wrong.demand_symptom(Defect(Symptom.KILLED_BY_OOPS, "why", oops="illegal operation: 0001"))


@pytest.mark.parametrize("symptom", Symptom)
def test_a_repaired_kernel_is_reported(symptom: Symptom) -> None:
    EXACT.demand_exact()
    with pytest.raises(Missed, match="the kernel is fixed"):
        EXACT.demand_symptom(Defect(symptom, "why"))


@pytest.mark.parametrize("wrong", [*SHOWS.values(), outcome("0xfeed", 0), outcome("0xfeed", 6)])
def test_what_is_not_exact_is_a_miss(wrong: SingleStepResult) -> None:
    with pytest.raises(Missed):
        wrong.demand_exact()


def test_a_handler_that_runs_only_for_a_taken_branch_runs_each_time_it_is_taken() -> None:
    replace(EXACT, hits=4, exact_hits=4).demand_exact()
    for hits, exact in ((3, 4), (5, 4), (8, 4), (0, 0)):
        with pytest.raises(Missed, match=f"hit {hits}, not {exact}, and missed 0 times"):
            replace(EXACT, hits=hits, exact_hits=exact).demand_exact()


def test_a_probe_in_a_handler_is_missed_as_often_as_the_handler_runs() -> None:
    replace(EXACT, inner_hits_and_misses=(0, 8)).demand_exact()
    for hits, missed in ((8, 0), (0, 7)):
        with pytest.raises(Missed, match=f"in its handler hit {hits} and missed {missed} times"):
            replace(EXACT, inner_hits_and_misses=(hits, missed)).demand_exact()


@pytest.mark.parametrize("change", [{"times_found": 7}, {"sample_count": 121}, {"in_function": True}])
def test_a_guest_that_is_only_slow_does_not_trap_endlessly(change: dict[str, int]) -> None:
    stands = SHOWS[Symptom.TRAPS_WITHOUT_END].cpu_address
    assert stands is not None
    with pytest.raises(Missed, match="traps forever"):
        outcome("", 0, stands=replace(stands, **change)).demand_symptom(Defect(Symptom.TRAPS_WITHOUT_END, "why"))


def test_sites_apart() -> None:
    offsets = [0, 3, 5, 7, 9, 12]
    assert [site.offset for site in select_sites_apart(map(SITE.at_offset, offsets), 5)] == [0, 5, 12]
