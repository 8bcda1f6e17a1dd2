"""Judges probes that only ftrace knows, fentry, fprobe, kprobe.multi: the list's line, and the call in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from harness.guest.guest import Guest
from harness.landing.probe_module import ListedProbe
from harness.landing.site import Site
from harness.landing.verify.fprobe_owners import FprobeOwners
from harness.landing.verify.ftrace_call_target import (
    LONGEST,
    call_target,
    size_of_trampoline_at_target,
    tracer_of_trampoline,
)
from harness.landing.verify.guest_text_changes import GuestText, TextChanges
from harness.landing.verify.judged import JudgedProbe, ProbeVerdict
from harness.landing.verify.site_addresses_from_elf_files import LoadedFiles
from harness.landing.verify.traced_functions import TracedFunction

# What a site calls that has no trampoline of its own (arch/*/kernel/ftrace*.S).
_COMMON = ("ftrace_caller", "ftrace_regs_caller")
_KALLSYMS = "/proc/kallsyms"


class FtraceJudge:
    """Judges against the text while the probes stand; `directs` are addresses of BPF's trampolines by symbol."""

    def __init__(
        self, files: LoadedFiles, changes: TextChanges, during: GuestText, directs: dict[str, set[int]]
    ) -> None:
        self._files = files
        self._changes = changes
        self._during = during
        self._directs = directs

    def judge_traced_function(self, traced: TracedFunction) -> JudgedProbe:
        """The verdict on one function of the list."""
        sites = self.ftrace_sites_of(traced)
        form = self._files.kprobe_traits.ftrace_call_instruction
        judged = JudgedProbe(str(traced), traced.kind, ProbeVerdict.NOT_JUDGED)
        if not sites:
            named = self._files.find_places(Site(traced.name, 0, traced.module))
            return _because(judged, named.missing_reason or f"no file at hand has an ftrace site in {traced}")
        if form is None:
            return _because(judged, "how this architecture calls from an ftrace site is not in the table")
        targets = {at: call_target(form, at, self._code(at)) for at in sites}
        calling = {at: target for at, target in targets.items() if target is not None}
        if not calling:
            return JudgedProbe(
                str(traced),
                traced.kind,
                ProbeVerdict.MISSED,
                sites[0],
                self._files.describe_address(sites[0]),
                reason="the site in memory is no call",
            )
        at, target = next(iter(calling.items()))
        size = size_of_trampoline_at_target(form)
        tracer = tracer_of_trampoline(self._code(target, size)) if size else target
        wanted = self._wanted(traced)
        means = self._files.describe_address(at)
        memory = f"call to {target:#x}"
        note: tuple[str, ...] = (f"{len(sites)} functions have that name",) if len(sites) > 1 else ()
        note += (f"one of {traced.tracer_count} tracers",) if traced.tracer_count > 1 else ()
        if tracer is None:
            return _because(
                JudgedProbe(str(traced), traced.kind, ProbeVerdict.NOT_JUDGED, at, means, memory, notes=note),
                "no file at hand has the trampoline of the site",
            )
        if wanted and tracer not in wanted:
            listed = ", ".join(f"{each:#x}" for each in sorted(wanted))
            return JudgedProbe(
                str(traced),
                traced.kind,
                ProbeVerdict.MISSED,
                at,
                means,
                memory,
                notes=note,
                reason=f"the site calls {self._files.describe_address(tracer)}, the list has {listed}",
            )
        if not wanted:
            return _because(
                JudgedProbe(str(traced), traced.kind, ProbeVerdict.NOT_JUDGED, at, means, memory, notes=note),
                "the list shows no trampoline",
            )
        landed = ProbeVerdict.LANDED
        return JudgedProbe(str(traced), traced.kind, landed, at, means, memory, traced.named_tracer, notes=note)

    def ftrace_sites_of(self, traced: TracedFunction) -> list[int]:
        """The ftrace sites of every function of that name."""
        named = self._files.find_places(Site(traced.name, 0, traced.module))
        return [
            at
            for place in named.places
            for at in self._changes.all_ftrace_sites_in(
                place.address - place.landing_pad_size, max(1, place.symbol.size)
            )
        ]

    def _wanted(self, traced: TracedFunction) -> Collection[int]:
        """The addresses that the site may call by the list."""
        if traced.direct_trampoline and traced.tracer_count <= 1:
            return self._directs.get(traced.direct_trampoline, set())
        own = set(traced.trampolines)
        if own and traced.tracer_count == 1:
            return own
        kernel = self._files.layout.kernel
        return own | {s.address + self._files.slide for name in _COMMON for s in kernel.symbols_named(name)}

    def _code(self, address: int, size: int = LONGEST) -> bytes:
        region = self._during.region_at(address)
        return region.bytes_at(address, size) if region else b""


def judge_traced_functions(
    judge: FtraceJudge, traced: Sequence[TracedFunction], kprobes: Iterable[ListedProbe], owners: FprobeOwners
) -> list[JudgedProbe]:
    """The verdicts on the functions that only ftrace lists; `kprobes` are all that the kernel lists as kprobes."""
    kprobe_sites = {each.address for each in kprobes if "[FTRACE]" in each.flags}
    # Without trampolines of their own, as on i386, the list names no tracer: then a kprobe on the site is the only one.
    return [
        owners.add_owner(judge.judge_traced_function(each), each)
        for each in traced
        if each.kind != "kprobe"
        and not (each.only_tracer_is_unnamed and kprobe_sites.intersection(judge.ftrace_sites_of(each)))
    ]


def trampoline_addresses(guest: Guest, traced: Iterable[TracedFunction]) -> dict[str, set[int]]:
    """The addresses of the trampolines that BPF made for these functions, which no file has, by their symbols."""
    wanted = sorted({each.direct_trampoline for each in traced if each.direct_trampoline})
    if not wanted:
        return {}
    pattern = "\\|".join(wanted)
    listing = guest.run_script(f"grep -w '{pattern}' {_KALLSYMS}").stdout
    found: dict[str, set[int]] = {}
    for line in listing.splitlines():
        address, _, name, *_ = line.split()
        found.setdefault(name, set()).add(int(address, 16))
    return found


def _because(judged: JudgedProbe, why: str) -> JudgedProbe:
    return JudgedProbe(
        judged.asked,
        judged.kind,
        ProbeVerdict.NOT_JUDGED,
        judged.address,
        judged.symbol_offset,
        judged.memory_change,
        judged.owner,
        why,
        judged.notes,
    )
