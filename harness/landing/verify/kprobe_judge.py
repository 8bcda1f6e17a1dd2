"""Judges each kprobe of a guest: what was asked for, the kernel's list, the ELF files, and memory from outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.core.elf import Symbol
from harness.landing import five_address_witnesses, own_bytes
from harness.landing.five_address_witnesses import Statement, Window
from harness.landing.landing_judgment import Landing
from harness.landing.own_bytes import OwnBytes
from harness.landing.probe_module import ListedProbe
from harness.landing.site import Site
from harness.landing.verify.ftrace_call_target import LONGEST, call_target
from harness.landing.verify.guest_text_changes import GuestText, TextRegion
from harness.landing.verify.judged import JudgedProbe, ProbeVerdict
from harness.landing.verify.registrations import Registration
from harness.landing.verify.site_addresses_from_elf_files import LoadedFiles, SitePlace, SitePlaces

# Memory to both sides of a probe that is compared with the ELF file.
_AROUND = 32
_SHOWN = 8
_KINDS = {"k": "kprobe", "r": "kretprobe"}
# The linker's own marks, which perf counts from: an offset is past the end of none of them.
_MARKS = frozenset({"_text", "_stext", "_sinittext", "_einittext", "_etext"})


@dataclass(frozen=True)
class FoundKprobe:
    """One kprobe that the kernel lists, with the call that registered it where that was recorded."""

    listed: ListedProbe
    registration: Registration | None = None


def match_registrations(
    listed: Sequence[ListedProbe], calls: Sequence[Registration]
) -> tuple[list[FoundKprobe], list[Registration]]:
    """Each listed kprobe with its registration, and the registrations of kprobes that are not listed any more.

    Of several at one address the latest still stand.
    """
    open_calls = [call for call in calls if not call.errno]
    found = []
    for each in listed:
        here = [call for call in reversed(open_calls) if call.address == each.address]
        alike = [call for call in here if call.disabled == ("[DISABLED]" in each.flags)] or here
        found.append(FoundKprobe(each, alike[0] if alike else None))
        if alike:
            open_calls.remove(alike[0])
    return found, open_calls


class KprobeJudge:
    """Judges against the text before the probes came, and while they stand.

    `standing` are the addresses of probes from before, `listed` all probes that are listed while they stand.
    """

    def __init__(
        self,
        files: LoadedFiles,
        before: GuestText,
        during: GuestText,
        standing: Sequence[int],
        listed: Sequence[ListedProbe],
    ) -> None:
        self._files = files
        self._before = before
        self._during = during
        self._standing = list(standing)
        self._armed = armed_addresses(listed)

    def judge_found_kprobe(self, found: FoundKprobe) -> JudgedProbe:
        """The verdict on a probe that stands."""
        each, call = found.listed, found.registration
        by_name = call if call and call.symbol else None
        if by_name:
            site = _site(by_name.symbol, by_name.offset)
        else:
            site = self._files.named_as_in_files(site_of_listed_probe(each))
        named = self._files.find_places(site, as_listed=by_name is None)
        place = named.place_at(each.address)
        statements = [
            self._asked(by_name, each),
            Statement("listed", each.address, " ".join((each.symbol_offset, *each.flags))),
            self._by_file(site, each, named),
            self._outside(each),
        ]
        shown = [self._with_bytes(statement) for statement in statements if statement]
        past = is_past_end(site, named)
        escaped = self._files.describe_address(each.address) if past else ""
        landing = Landing(site, shown, 0, self._files.describe_address, escaped)
        judged = JudgedProbe(
            asked=by_name.asked_symbol_offset if by_name else str(site),
            kind=_KINDS.get(each.kind, each.kind),
            verdict=ProbeVerdict.LANDED,
            address=each.address,
            symbol_offset=self._described(each, site),
            memory_change=_memory(landing),
            notes=tuple(_notes(each, place, named)),
            landing=landing,
        )
        return self._decided(judged, each, landing)

    def _described(self, each: ListedProbe, site: Site) -> str:
        """Symbol + offset of a listed probe: by the files, or, where its code was freed, as it was asked for.

        The kernel's list shows by then what else the address belongs to.
        """
        if "[GONE]" in each.flags:
            return str(site)
        return self._files.describe_address(each.address)

    def judge_registration_of_removed_probe(self, call: Registration) -> JudgedProbe:
        """The verdict on a probe that was registered and is not listed any more."""
        site = _site(call.symbol, call.offset) if call.symbol else None
        means = self._files.describe_address(call.address)
        judged = JudgedProbe(call.asked_symbol_offset or means, "kprobe", ProbeVerdict.GONE, call.address, means)
        if site is None:
            return judged
        named = self._files.find_places(site)
        if is_past_end(site, named):
            return replace(judged, verdict=ProbeVerdict.MISSED, reason=f"past the end of its function, in {means}")
        if named.places and call.address not in named.addresses:
            return replace(
                judged, verdict=ProbeVerdict.MISSED, reason=f"the file has {site} at {named.addresses[0]:#x}"
            )
        return judged

    def _decided(self, judged: JudgedProbe, each: ListedProbe, landing: Landing) -> JudgedProbe:
        """The verdict that the witnesses allow."""
        contradicted = any(statement.contradicts for statement in landing.statements)
        disagree = contradicted or len({statement.address for statement in landing.statements_with_address}) > 1
        if "[GONE]" in each.flags:
            return replace(judged, verdict=ProbeVerdict.GONE, reason="the code that it stood on was freed")
        if disagree or landing.escaped_into:
            return replace(judged, verdict=ProbeVerdict.MISSED, reason=landing.complaint)
        if "[DISABLED]" in each.flags:
            return replace(judged, verdict=ProbeVerdict.DISABLED)
        # The last statement is that of memory: without it nothing shows that the probe is where the lists have it.
        silent = [statement for statement in landing.statements if statement.address is None and statement.detail]
        if landing.complaint or landing.statements[-1] in silent:
            reason = silent[-1].detail if silent else landing.complaint
            return replace(judged, verdict=ProbeVerdict.NOT_JUDGED, reason=reason)
        return judged

    def _asked(self, call: Registration | None, each: ListedProbe) -> Statement | None:
        if call is None:
            return None
        return Statement("asked", each.address, f"register_kprobe({call.asked_symbol_offset}) by {call.command}")

    def _by_file(self, site: Site, each: ListedProbe, named: SitePlaces) -> Statement:
        if not named.places:
            return Statement("elf", None, named.missing_reason or f"no file at hand has {site}")
        place = named.place_at(each.address)
        return Statement("elf", place.address if place else named.places[0].address)

    def _outside(self, each: ListedProbe) -> Statement:
        """What memory has at a listed kprobe."""
        if "[GONE]" in each.flags:
            return Statement("outside", None, "the code is gone")
        region = self._during.region_at(each.address)
        if region is None:
            missing = self._files.reason_missing_at(each.address)
            return Statement("outside", None, missing or "no ELF file at hand has this address")
        start = max(region.start, each.address - _AROUND)
        size = min(2 * _AROUND, region.end - start)
        own = self._own(region.module, region.section, region.start, start, size)
        if not own.code:
            return Statement("outside", None, "the file does not show what the kernel patches there")
        during = region.bytes_at(start, len(own.code))
        earlier = self._before.same_region(region)
        if earlier is None and "[FTRACE]" in each.flags:
            return self._called(each.address, region, own)
        before = earlier.bytes_at(start, len(own.code)) if earlier else _unprobed(own, during, each.address)
        window = Window(start, before, during, before)
        kprobes = self._files.kprobe_traits
        if "[DISABLED]" in each.flags:
            changed = [at for at in window.starts_of_changes(kprobes) if at <= each.address < at + _SHOWN]
            if changed and each.address not in self._armed:
                denial = "memory has a probe that is listed as disabled"
                return Statement("outside", each.address, denial, contradicts=True)
            return Statement("outside", None, "it is disabled: memory shows nothing")
        return five_address_witnesses.qemu_memory_statement(window, each.address, kprobes, own, self._standing)

    def _called(self, address: int, region: TextRegion, own: OwnBytes) -> Statement:
        """What memory shows of a probe on an ftrace site of a module that was not loaded before."""
        form = self._files.kprobe_traits.ftrace_call_instruction
        code = region.bytes_at(address, LONGEST)
        target = call_target(form, address, code) if form else None
        if target is None:
            return Statement("outside", address, f"{code.hex()} is no call", contradicts=True)
        strays = own.differing_offsets(region.bytes_at(own.start, len(own.code)))
        if strays:
            denial = f"memory at {own.start + strays[0]:#x} is not what the file has"
            return Statement("outside", address, denial, contradicts=True)
        return Statement("outside", address, f"call to {target:#x}; {own.comparable_count} bytes around are the ELF's")

    def _own(self, module: str, section: str, loaded: int, start: int, size: int) -> OwnBytes:
        elf = self._files.elf_of_module(module)
        if elf is None:
            return OwnBytes(start, b"", frozenset())
        if module:
            return own_bytes.module_own_bytes(elf, section, loaded, start, size)
        return own_bytes.kernel_own_bytes(elf, self._files.slide, start, size)

    def _with_bytes(self, statement: Statement) -> Statement:
        if statement.address is None:
            return statement
        region = self._during.region_at(statement.address)
        if region is None:
            return statement
        if statement.witness == "elf":
            own = self._own(region.module, region.section, region.start, statement.address, _SHOWN)
            return replace(statement, code=own.code)
        return replace(statement, code=region.bytes_at(statement.address, _SHOWN))


def armed_addresses(listed: Sequence[ListedProbe]) -> frozenset[int]:
    """The addresses that memory must have a probe at: another probe there may be disabled."""
    return frozenset(each.address for each in listed if not {"[DISABLED]", "[GONE]"} & set(each.flags))


def _site(symbol: str, offset: int) -> Site:
    """`MOD:SYM` or `SYM` as a site."""
    module, _, name = symbol.rpartition(":")
    return Site(name, offset, module, omits_module=not module)


def site_of_listed_probe(each: ListedProbe) -> Site:
    """What the kernel lists, as a site: `sym+0xoff` and, for a module's, its name."""
    place, _, module = each.symbol_offset.partition(" ")
    symbol, plus, offset = place.rpartition("+")
    if not plus:
        return Site(place)
    try:
        into = int(offset.partition("/")[0], 16)
    except ValueError:
        return Site(place)
    return Site(symbol, into, module.strip("[]"))


def is_past_end(site: Site, named: SitePlaces) -> bool:
    """Is the offset past the end of every function of that name? The kernel accepts it all the same."""
    sizes = [symbol.size for symbol in (place.symbol for place in named.places) if _is_function(symbol)]
    return bool(sizes) and site.symbol not in _MARKS and all(0 < size <= site.offset for size in sizes)


def _is_function(symbol: Symbol) -> bool:
    return symbol.kind in ("func", "notype")


def _notes(each: ListedProbe, place: SitePlace | None, named: SitePlaces) -> list[str]:
    notes = []
    if place and len(named.places) > 1:
        notes.append(f"{_ordinal(named.places.index(place) + 1)} of {len(named.places)}")
    if place and place.landing_pad_size:
        notes.append(f"behind the landing pad of {place.landing_pad_size} bytes at its entry")
    notes += [flag.strip("[]").lower() for flag in each.flags if flag in ("[OPTIMIZED]", "[FTRACE]")]
    return notes


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"number {number}")


def _memory(landing: Landing) -> str:
    statement = next((each for each in landing.statements if each.witness == "outside"), None)
    return statement.detail.partition(";")[0] if statement and statement.address is not None else ""


def _unprobed(own: OwnBytes, memory: bytes, address: int) -> bytes:
    """Memory without the probe, by the file; what the file does not know is as in memory, but at the probe."""
    here = address - own.start
    return bytes(
        memory[at] if at in own.masked_offsets and not here <= at < here + own_bytes.FEWEST else byte
        for at, byte in enumerate(own.code[: len(memory)])
    )
