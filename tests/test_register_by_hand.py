"""Functions relocated by hand must be where the trial counts them, in the kernel's own words."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest

from harness.core.elf_symbols_and_relocations import DESCRIPTORS
from harness.guest.guest import Guest
from harness.landing.checks import register_by_hand
from harness.landing.checks.classify_address import AddressKind
from harness.landing.checks.register_by_hand import prove_registered_by_hand
from harness.landing.checks.relocation_by_hand_trial import RelocatedFunction, Trial
from harness.landing.code.closest_symbol import SymbolOffset
from harness.landing.landing_judgment import Missed
from harness.landing.mutants import MUTANTS
from harness.landing.probe_module import ListedProbe, ProbeModuleRequest, ProbeView, SiteReport
from harness.landing.site import Site
from harness.landing.sweep.sweep_plan import Depth

NAMES = {0x1000: "first", 0x1100: "second", 0x1200: "third"}
LANDS = RelocatedFunction(Site("first"), 0x1000, 0x1000, AddressKind.INSTRUCTION)
# The entry of another function, of a name that occurs twice, with a landing pad.
PAD = 0x1200
STRAYS = RelocatedFunction(Site("first"), 0x1100, 0x1000, AddressKind.INSTRUCTION)


def trial(*functions: RelocatedFunction, machine: str = "EM_X86_64", most: int = 0) -> Trial:
    places = SimpleNamespace(symbol_offset_at=lambda address: SymbolOffset((NAMES[address & ~0xFF],), address & 0xFF))
    layout = SimpleNamespace(
        guest=SimpleNamespace(
            architecture=SimpleNamespace(kprobe_traits=SimpleNamespace(most_kprobes_in_kernel_text=most)), used_up=""
        ),
        kernel=SimpleNamespace(machine=machine, sections_by_name={DESCRIPTORS: None}),
        closest_symbols=places,
        probe_address=lambda site: 0x1000 + site.offset,
        next_accepted_site=lambda site: site.at_offset(4),
    )
    return cast(
        Trial,
        SimpleNamespace(
            layout=layout,
            functions=functions,
            by_hand=SimpleNamespace(build_request=lambda sites, *_: ProbeModuleRequest([site.spec for site in sites])),
            classifier=SimpleNamespace(
                is_inside_instruction=lambda _: True, landing_pad_size_at=lambda address: 4 if address == PAD else 0
            ),
        ),
    )


def answer(monkeypatch: pytest.MonkeyPatch, address: int, errno: int = 0, listed: str = "first+0x0") -> None:
    """Let the kernel answer each registration so."""

    def load(_: object, specs: list[str], *__: object) -> ProbeView:
        entries = () if errno or not listed else (ListedProbe(address, listed, ("[DISABLED]",)),)
        return ProbeView(tuple(SiteReport(spec, errno, 0 if errno else address, 0, 0) for spec in specs), entries)

    monkeypatch.setattr(register_by_hand.probe_module, "load_probe_module", load)
    monkeypatch.setattr(register_by_hand.probe_module, "unload_probe_module", lambda *_: None)
    refusals = SimpleNamespace(reason=lambda *_: "blacklisted" if errno == 22 else "", must_refuse=lambda _: "")
    monkeypatch.setattr(register_by_hand, "RefusalReasonFinder", lambda _: refusals)


def test_a_function_that_lands_is_listed_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, 0x1000)
    found = prove_registered_by_hand(trial(LANDS), Depth.SAMPLE)
    assert (found.tried, found.registered) == (1, 1)


@pytest.mark.parametrize(("most", "loads"), [(0, [3]), (2, [2, 1])])
def test_no_more_functions_are_registered_at_once_than_the_kernel_has_room_for(
    monkeypatch: pytest.MonkeyPatch, most: int, loads: list[int]
) -> None:
    answer(monkeypatch, 0x1000)
    seen: list[int] = []
    load = register_by_hand.probe_module.load_probe_module

    def counted(guest: Guest, specs: list[str], *others: object) -> ProbeView:
        seen.append(len(specs))
        return cast(Callable[..., ProbeView], load)(guest, specs, *others)

    monkeypatch.setattr(register_by_hand.probe_module, "load_probe_module", counted)
    assert prove_registered_by_hand(trial(LANDS, LANDS, LANDS, most=most), Depth.SAMPLE).registered == 3
    assert seen == loads


def test_a_dot_before_the_listed_name_is_accepted_only_of_a_kernel_with_dots(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, 0x1000, listed=".first+0x0")
    assert prove_registered_by_hand(trial(LANDS, machine="EM_PPC64"), Depth.SAMPLE).registered == 1
    with pytest.raises(Missed, match=r"the kernel lists \.first\+0x0 at 0x1000, the files have first\+0x0"):
        prove_registered_by_hand(trial(LANDS), Depth.SAMPLE)


@pytest.mark.parametrize(
    ("address", "errno", "listed", "complaint"),
    [
        (0x1004, 0, "first+0x4", "registered at 0x1004, not at 0x1000"),
        (0x1000, 0, "second+0x0", r"the kernel lists second\+0x0 at 0x1000, the files have first\+0x0"),
        (0x1000, 0, "", "where the kernel lists nothing"),
        (0x1000, 84, "", "refused with errno 84"),
    ],
)
def test_what_differs_is_a_miss(
    monkeypatch: pytest.MonkeyPatch, address: int, errno: int, listed: str, complaint: str
) -> None:
    answer(monkeypatch, address, errno, listed)
    with pytest.raises(Missed, match=complaint):
        prove_registered_by_hand(trial(LANDS), Depth.SAMPLE)


def test_a_refusal_with_a_reason_is_not_counted_as_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, 0x1000, errno=22)
    assert prove_registered_by_hand(trial(LANDS), Depth.SAMPLE).registered == 0


def test_a_stray_function_is_listed_as_another(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, 0x1100, listed="second+0x0")
    assert prove_registered_by_hand(trial(STRAYS), Depth.ALL).registered == 1
    with pytest.raises(Missed, match="inside an instruction"):
        prove_registered_by_hand(trial(STRAYS._replace(kind_at_address=AddressKind.MID_INSTRUCTION)), Depth.ALL)


def test_the_kernel_skips_the_landing_pad_at_the_entry_of_another_function(monkeypatch: pytest.MonkeyPatch) -> None:
    at_pad = STRAYS._replace(computed_address=PAD)
    answer(monkeypatch, PAD + 4, listed="third+0x4")
    assert prove_registered_by_hand(trial(at_pad), Depth.ALL).registered == 1
    answer(monkeypatch, 0x1104, listed="second+0x4")
    with pytest.raises(Missed, match="registered at 0x1104, not at 0x1100"):
        prove_registered_by_hand(trial(STRAYS), Depth.ALL)


def test_the_mutant_moves_the_first_function(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []

    def load(_: object, specs: list[str], *__: object) -> ProbeView:
        sent.extend(specs)
        reports = tuple(SiteReport(spec, 0, 0x1004 if "+" in spec else 0x1000, 0, 0) for spec in specs)
        return ProbeView(reports, (ListedProbe(0x1000, "first+0x0", ()), ListedProbe(0x1004, "first+0x4", ())))

    answer(monkeypatch, 0x1000)
    monkeypatch.setattr(register_by_hand.probe_module, "load_probe_module", load)
    with pytest.raises(Missed, match="1 of 2 functions registered by hand are not as computed"):
        prove_registered_by_hand(trial(LANDS, LANDS), Depth.ALL, MUTANTS["misplaces-one"])
    assert sent == ["first+0x4", "first"]
