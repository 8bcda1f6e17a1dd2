"""Sweeps judge each batch and find a deadly site. No VM is used."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.core.architecture import DecoderKind
from harness.core.architecture_table import ARCHITECTURES
from harness.core.errors import GuestError, GuestLost
from harness.core.events import Bus, Event
from harness.core.single_step_defect_types import Defect, Symptom
from harness.guest.guest import Guest
from harness.images.kernel_defects import KernelDefects
from harness.landing.code.instruction import Flow, Instruction, InstructionKind
from harness.landing.five_address_witnesses import Statement
from harness.landing.landing_judgment import Landing, Missed
from harness.landing.layout import Layout
from harness.landing.probe_module import SEPARATOR, ListedProbe
from harness.landing.site import Site
from harness.landing.sweep import batched_sweep, sweep_past_deadly_sites, sweep_plan
from harness.landing.sweep.batched_sweep import FatalSite, RefusedSite, ReservedSite, Sweep, SweepResult
from harness.landing.sweep.sweep_module import KprobesListing, SweepModule
from harness.landing.sweep.sweep_past_deadly_sites import FreshGuests
from harness.landing.sweep.sweep_plan import Depth

SITES = [Site(f"f{number}") for number in range(40)]


def test_listing_finds_the_closest_on_either_side() -> None:
    listing = KprobesListing(ListedProbe(address, "f+0x0", ()) for address in (0x30, 0x10, 0x20))
    assert [each.address for each in listing.nearest_entries(0x20)] == [0x10, 0x20]
    assert [each.address for each in listing.nearest_entries(0x21)] == [0x20, 0x30]
    assert [each.address for each in listing.nearest_entries(0x99)] == [0x30]
    assert [each.address for each in listing.nearest_entries(0)] == [0x10]
    assert KprobesListing([]).nearest_entries(0x10) == []


def test_batches_are_spread_keep_order_and_lose_nothing() -> None:
    parts = sweep_plan.divide_into_spread_batches(SITES, 16)
    assert [len(part) for part in parts] == [14, 13, 13]
    assert list(parts[0][:3]) == [SITES[0], SITES[3], SITES[6]]
    assert {site for part in parts for site in part} == set(SITES)
    assert sweep_plan.divide_into_spread_batches([], 16) == []


def test_sites_that_are_stepped_wrongly_are_armed_last_and_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {SITES[3]: "its entry is a conditional", SITES[20]: ""}
    monkeypatch.setattr(sweep_plan, "defects_of_wrongly_stepped", lambda *_: wrong)
    monkeypatch.setattr(sweep_plan, "ARMED_BATCH", 20)
    batches = sweep_plan.divide_into_batches_to_arm(cast(Layout, None), SITES)
    assert [len(batch) for batch in batches] == [19, 19, 2]
    assert list(batches[-1]) == [SITES[3], SITES[20]]
    assert {site for batch in batches for site in batch} == set(SITES)


@pytest.mark.parametrize(
    ("kind", "stack_store", "defects", "kept"),
    [
        (InstructionKind.STACK_STORE, "", {}, SITES[:2]),
        (InstructionKind.STACK_STORE, "sstep.c", {}, SITES[1:2]),
        (InstructionKind.STACK_STORE, "", {"taken-for-return": "kprobes.c"}, SITES[:2]),
        (InstructionKind.TAKEN_FOR_RETURN, "sstep.c", {}, SITES[:2]),
        (InstructionKind.TAKEN_FOR_RETURN, "", {"taken-for-return": "kprobes.c"}, SITES[1:2]),
    ],
)
def test_entries_are_left_out_only_with_their_defect(
    monkeypatch: pytest.MonkeyPatch,
    kind: InstructionKind,
    stack_store: str,
    defects: dict[str, str],
    kept: list[Site],
) -> None:
    kinds = {SITES[0].symbol: kind, SITES[1].symbol: InstructionKind.OTHER, SITES[2].symbol: InstructionKind.OTHER}
    recipe = SimpleNamespace(defects=KernelDefects(stack_store_waits=stack_store or None))
    traits = SimpleNamespace(defects=defects, trap_handlers_functions={SITES[2].symbol: "it handles breakpoints"})
    architecture = SimpleNamespace(kprobe_traits=traits)
    layout = SimpleNamespace(
        guest=SimpleNamespace(image=SimpleNamespace(recipe=recipe), architecture=architecture),
        decoder=DecoderKind.PPC64,
        elf_and_symbol=lambda site: (None, site.symbol),
        entry_shift_of=lambda *_: 8,
    )

    def decoded(_elf: object, symbol: str, _decoder: DecoderKind, *, landing_pad: int) -> Instruction:
        return Instruction(landing_pad, 4, Flow.PLAIN, kind=kinds[symbol])

    monkeypatch.setattr(sweep_plan, "instruction_at_function_start", decoded)
    assert sweep_plan.without_defective_entries(cast(Layout, layout), SITES[:3]) == kept


@pytest.mark.parametrize(
    ("functions", "depth", "resolved", "armed"),
    [
        (5000, Depth.SAMPLE, 1500, 300),
        (5000, Depth.KERNEL, 5000, 5000),
        (20_000, Depth.KERNEL, 20_000, 300),
        (20_000, Depth.ALL, 20_000, 20_000),
    ],
)
def test_how_much_a_depth_sweeps(
    functions: int, depth: Depth, resolved: int, armed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    symbols = [SimpleNamespace(name=f"f{number}") for number in range(functions)]
    monkeypatch.setattr(sweep_plan, "text_functions_named_once", lambda _kernel: symbols)
    monkeypatch.setattr(sweep_plan, "_sample", lambda _layout: SITES[:1] * 300)
    layout = cast(Layout, SimpleNamespace(kernel=None, targets={}, decoder=DecoderKind.X86_64))
    assert len(sweep_plan.sites_to_register_disabled(layout, depth)) == resolved
    assert len(sweep_plan.sites_to_arm(layout, depth)) == armed


def missed(site: Site) -> Landing:
    return Landing(site, [Statement("reported", 0x10), Statement("elf", 0x14)], 0, hex)


def test_only_reasonless_refusals_misses_and_deaths_are_unexplained() -> None:
    swept = SweepResult(landed_count=4, refused_sites=[RefusedSite(SITES[0], errno.EINVAL, "blacklisted")])
    swept.prove()
    swept.add(
        SweepResult(
            missed_landings=[missed(SITES[1])],
            refused_sites=[RefusedSite(SITES[2], errno.EILSEQ, "")],
            fatal_sites=[FatalSite(SITES[3], ""), FatalSite(SITES[4], "stepped wrongly")],
        )
    )
    assert swept.site_count == 9
    assert len(swept.unexplained_site_descriptions) == 3
    with pytest.raises(Missed, match="3 of 9 sites are unexplained") as caught:
        swept.prove()
    assert "f2+0x0: refused with errno 84" in str(caught.value)
    assert "f3+0x0: kills the guest" in str(caught.value)
    assert "witness" in str(caught.value)


@contextmanager
def a_guest() -> Iterator[Guest]:
    yield cast(Guest, object())


class Deadly:
    """Stands in for target, module, layout and sweep; each site in `killers` kills the guest."""

    def __init__(self, killers: set[Site], recorded: Callable[[Sequence[Site]], list[int]]) -> None:
        self.killers = killers
        self.recorded = recorded
        self.tried: list[Sequence[Site]] = []
        self.wrong: dict[Site, str] = {}

    def __call__(self, *_: object, **__: object) -> Deadly:
        return self

    def load(self) -> None: ...

    def unload(self) -> None: ...

    def sweep_as_one_batch(self, sites: Sequence[Site]) -> SweepResult:
        self.tried.append(sites)
        if self.killers & set(sites):
            raise GuestLost("dead")
        return SweepResult(landed_count=len(sites))

    def read_flight_recorder(self) -> list[int]:
        return self.recorded(self.tried[-1])


def no_recorder(_: Sequence[Site]) -> list[int]:
    raise GuestError("no memory")


def hunt(monkeypatch: pytest.MonkeyPatch, deadly: Deadly) -> tuple[FreshGuests, SweepResult, list[Event]]:
    for name in ("Target", "SweepModule", "Layout", "Sweep"):
        monkeypatch.setattr(sweep_past_deadly_sites, name, deadly)
    bus, events = Bus(), []
    bus.add_listener(events.append)
    with bus.step("vm", "armed") as step:
        guests = FreshGuests(a_guest, step)
        swept = guests.sweep_batches(sweep_plan.divide_into_spread_batches(SITES, 20))
    return guests, swept, events


@pytest.mark.parametrize("killers", [{7}, {0, 39}, {18, 19, 20}, set()])
def test_bisects_to_every_deadly_site_and_sweeps_the_rest(monkeypatch: pytest.MonkeyPatch, killers: set[int]) -> None:
    deadly = Deadly({SITES[number] for number in killers}, no_recorder)
    _, swept, _ = hunt(monkeypatch, deadly)
    assert {death.site for death in swept.fatal_sites} == deadly.killers
    assert swept.landed_count == len(SITES) - len(killers)


def test_the_flight_recorder_saves_the_bisection(monkeypatch: pytest.MonkeyPatch) -> None:
    culprit = SITES[27]
    deadly = Deadly({culprit}, lambda batch: [batch.index(culprit), 0])
    guests, swept, events = hunt(monkeypatch, deadly)
    assert swept.fatal_sites == [FatalSite(culprit, "")]
    assert swept.landed_count == len(SITES) - 1
    assert guests.guests == 3, "one died of the batch, one of the deadly site alone, one did the rest"
    assert any("kills the guest" in event.detail for event in events)


def test_what_is_no_death_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    deadly = Deadly(set(), no_recorder)
    monkeypatch.setattr(deadly, "sweep_as_one_batch", lambda _: (_ for _ in ()).throw(Missed("left")))
    with pytest.raises(Missed, match="left"):
        hunt(monkeypatch, deadly)


def test_a_probe_of_the_kernels_own_is_not_new_when_it_is_no_jump_any_more() -> None:
    module = SweepModule(cast("Any", SimpleNamespace(name="vm", architecture=ARCHITECTURES["x86_64"])))
    module._listed_before = [ListedProbe(0x10, "trampoline+0x0", ("[OPTIMIZED]",))]
    text = f"0 0 0\n0 20 0 0\n{SEPARATOR}\n0000000000000010  k  trampoline+0x0\n0000000000000020  k  f+0x0\n"
    found = module._batch(["f"], text)
    assert [each.address for each in found.listing.nearest_entries(0)] == [0x20]
    assert len(found.listing) == 1


@pytest.mark.parametrize("own", [("[OPTIMIZED]",), ()], ids=["jump", "trap"])
def test_a_probe_at_the_address_of_the_kernels_own_is_new(own: tuple[str, ...]) -> None:
    """PA-RISC's and PowerPC's kernels have a probe on __kretprobe_trampoline, which is also a site of a sweep."""
    module = SweepModule(cast("Any", SimpleNamespace(name="vm", architecture=ARCHITECTURES["x86_64"])))
    module._listed_before = [ListedProbe(0x10, "trampoline+0x0", own)]
    lines = "0000000000000010  k  trampoline+0x0    [DISABLED]\n0000000000000010  k  trampoline+0x0\n"
    found = module._batch(["trampoline"], f"0 0 0\n0 10 0 0\n{SEPARATOR}\n{lines}")
    assert found.listing.nearest_entries(0x10) == [ListedProbe(0x10, "trampoline+0x0", ("[DISABLED]",))]
    assert len(found.listing) == 1


def test_a_reserved_site_that_was_accepted_is_unexplained() -> None:
    swept = SweepResult(landed_count=9, accepted_reserved_sites=[ReservedSite(SITES[0], "jump label")])
    assert swept.site_count == 10
    with pytest.raises(Missed, match=r"1 of 10 sites are unexplained:\n.*accepted, though in the table: jump label"):
        swept.prove()


def test_reasons_for_too_many_sites_prove_nothing() -> None:
    refused = [RefusedSite(site, errno.EINVAL, "blacklisted") for site in SITES[:3]]
    SweepResult(landed_count=12, refused_sites=refused).prove()
    with pytest.raises(Missed, match="only 11 of 14 sites landed: 3 refused: blacklisted"):
        SweepResult(landed_count=11, refused_sites=refused).prove()


def test_refusals_are_counted_by_reason() -> None:
    refused = [RefusedSite(SITES[0], 22, "blacklisted"), RefusedSite(SITES[1], 22, ""), RefusedSite(SITES[2], 22, "")]
    assert SweepResult(refused_sites=refused).refused_by_reason == {"blacklisted": 1, "unexplained": 2}


@pytest.mark.parametrize(
    ("kind", "cause"), [(InstructionKind.CALL, "its entry is a call; skipped"), (InstructionKind.OTHER, "")]
)
def test_only_a_documented_defect_is_a_reason_for_death(
    monkeypatch: pytest.MonkeyPatch, kind: InstructionKind, cause: str
) -> None:
    kprobes = replace(ARCHITECTURES["parisc"].kprobe_traits, defects={"call": Defect(Symptom.WRONG_RESULT, "skipped")})
    memory = SimpleNamespace(read_many=lambda spans: [b"1234" for _ in spans])
    guest = SimpleNamespace(architecture=SimpleNamespace(kprobe_traits=kprobes), memory=memory)
    layout = cast(Layout, SimpleNamespace(guest=guest, probe_address=lambda _: 0x1000))
    entry = Instruction(0, 4, Flow.ENDS, kind=kind)
    monkeypatch.setattr(sweep_plan, "decode_first_instruction", lambda *_: entry)
    assert sweep_plan.defects_of_wrongly_stepped(layout, SITES[:1]) == {SITES[0]: cause}


@pytest.mark.parametrize(("name", "handler"), [("mips64el", "do_bp"), ("ppc64le", "check_return_regs_valid")])
def test_a_function_that_handles_each_breakpoint_may_kill_the_guest(name: str, handler: str) -> None:
    """Its entry is an instruction that is stepped correctly. A function of a module with that name is another one.

    PowerPC has no instruction that is stepped wrongly.
    """
    kprobes = ARCHITECTURES[name].kprobe_traits
    memory = SimpleNamespace(read_many=lambda spans: [bytes.fromhex("e0ffbd67") for _ in spans])
    guest = SimpleNamespace(architecture=SimpleNamespace(kprobe_traits=kprobes), memory=memory)
    layout = cast(Layout, SimpleNamespace(guest=guest, probe_address=lambda _: 0x1000))
    sites = [Site(handler), Site(handler, module="m"), Site("vfs_read")]
    assert sweep_plan.defects_of_wrongly_stepped(layout, sites) == {sites[0]: kprobes.trap_handlers_functions[handler]}


def test_the_defect_of_a_branch_before_a_nop_is_one_of_branches() -> None:
    kprobes = ARCHITECTURES["mips64el"].kprobe_traits
    assert kprobes.defect_of_kind("call") == kprobes.defects["call-before-nop"]
    assert kprobes.defect_of_kind("other") is None


@pytest.mark.parametrize(
    ("address", "cause"), [(0x1000, {SITES[0]: "its entry is a conditional; too late"}), (0x1FFE, {})]
)
def test_a_whole_instruction_is_read_but_not_past_its_page(address: int, cause: dict[Site, str]) -> None:
    compare_and_jump = bytes.fromhex("ec1200088076")  # CRJ, of six bytes
    spans: list[tuple[int, int]] = []

    def read_many(wanted: list[tuple[int, int]]) -> list[bytes]:
        spans.extend(wanted)
        return [compare_and_jump[:size] for _, size in wanted]

    defects = {"conditional": Defect(Symptom.KILLED_BY_OOPS, "too late")}
    kprobes = replace(ARCHITECTURES["s390x"].kprobe_traits, defects=defects)
    guest = SimpleNamespace(
        architecture=SimpleNamespace(kprobe_traits=kprobes), memory=SimpleNamespace(read_many=read_many)
    )
    layout = cast(Layout, SimpleNamespace(guest=guest, probe_address=lambda _: address))
    assert sweep_plan.defects_of_wrongly_stepped(layout, SITES[:1]) == cause
    assert all(start + size <= 0x2000 for start, size in spans)


@pytest.mark.parametrize(
    ("architecture", "idle", "way"),
    [
        ("parisc", False, "_held"),
        ("parisc", True, "_armed"),
        ("mips64el", False, "_held"),
        ("s390x", False, "_armed"),
        ("arm64", False, "_armed"),
    ],
)
def test_a_batch_is_held_only_where_a_nested_hit_is_fatal(
    monkeypatch: pytest.MonkeyPatch, architecture: str, idle: bool, way: str
) -> None:
    taken: list[str] = []
    for each in ("_held", "_armed"):
        monkeypatch.setattr(Sweep, each, lambda *_, each=each: taken.append(each) or iter(()))
    monkeypatch.setattr(sweep_plan, "defects_of_wrongly_stepped", lambda *_: {})
    monkeypatch.setattr(batched_sweep, "RefusalReasonFinder", lambda *_: None)
    guest = SimpleNamespace(architecture=ARCHITECTURES[architecture], scaled_deadline=lambda _: None)
    layout = cast(Layout, SimpleNamespace(guest=guest, probe_address=lambda _: 0x1000))
    Sweep(layout, cast(SweepModule, None), armed=True, idle=idle).sweep_as_one_batch([])
    assert taken == [way]


def test_a_refusal_of_a_batch_has_the_number_of_the_host() -> None:
    """SPARC's EILSEQ is EDQUOT elsewhere."""
    module = SweepModule(cast("Any", SimpleNamespace(name="vm", architecture=ARCHITECTURES["sparc64"])))
    assert [each.errno for each in module._batch(["f"], f"0 0 0\n122 0 0 0\n{SEPARATOR}\n").reports] == [errno.EILSEQ]
