"""Whatever registers probes in a guest, from before it begins until it has gone: found, judged, compared."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.landing.code.system_map import SystemMap
from harness.landing.layout import Layout, LoadedTarget
from harness.landing.probe_module import ListedProbe, without_one_for_each
from harness.landing.site import Site
from harness.landing.verify import listed_probes_and_modules, registrations
from harness.landing.verify.fentry_and_fprobe_judge import FtraceJudge, judge_traced_functions, trampoline_addresses
from harness.landing.verify.fprobe_owners import FprobeOwners
from harness.landing.verify.guest_text_changes import GuestText, TextChanges
from harness.landing.verify.judged import JudgedProbe, ProbeVerdict
from harness.landing.verify.kprobe_judge import KprobeJudge, match_registrations
from harness.landing.verify.listed_probes_and_modules import GuestLists, ListsAndModules
from harness.landing.verify.loaded_modules import LoadedModuleFinder, module_with_code, module_with_data
from harness.landing.verify.registrations import Registration, UprobeRegistration
from harness.landing.verify.site_addresses_from_elf_files import LoadedFiles
from harness.landing.verify.traced_functions import TRACED_KINDS, TracedFunction
from harness.landing.verify.uprobe_judge import judge_uprobes

_POLL = 0.2
# How long all lists must stay the same, and how long memory may take to agree with them, in seconds of a usual guest.
_QUIET = 0.5
_AGREE = 6.0
_SHOWN = 8
_STANDING = frozenset({ProbeVerdict.LANDED, ProbeVerdict.DISABLED, ProbeVerdict.GONE})


@dataclass(frozen=True)
class Judgement:
    """All probes, the calls that the kernel refused, and changes of text that nothing explains, each in words.

    The `lost` counts are those of Records. The kernel lists no uprobe, so one whose call was lost is not in `probes`.
    """

    probes: tuple[JudgedProbe, ...] = ()
    refused_registrations: tuple[Registration, ...] = ()
    unexplained_changes: tuple[str, ...] = ()
    lost_count: int = 0
    lost_uprobe_count: int = 0

    @property
    def missed_probes(self) -> list[JudgedProbe]:
        """The probes that were missed."""
        return [each for each in self.probes if each.verdict is ProbeVerdict.MISSED]

    @property
    def holds(self) -> bool:
        """True when no probe was missed or left unjudged and all changes of text are explained."""
        return self.agrees and not self.lost_uprobe_count

    @property
    def agrees(self) -> bool:
        """True when memory is as the lists and the files at hand make it, so that no later read can change that."""
        return not self.missed_probes and not self.unexplained_changes


class WatchedGuest:
    """One guest while something registers probes in it.

    `files` are ELF files at hand by module name. Entering loads `pinpoint_watch` and reads the guest as it is before;
    leaving unloads it.
    """

    def __init__(
        self,
        guest: Guest,
        files: Mapping[str, Path],
        names: SystemMap | None = None,
        read: Callable[[Guest], GuestLists] = listed_probes_and_modules.read_lists,
        fprobe_owners: Callable[[Guest, LoadedFiles], FprobeOwners] = FprobeOwners.read,
    ) -> None:
        self.guest = guest
        self.watched = True
        self.watches_uprobes = False
        self._names = names
        self._read = read
        self._fprobe_owners = fprobe_owners
        self._modules = LoadedModuleFinder(guest, {**guest.image.drivers, **files})
        self._judged = GuestLists((), (), registrations.Records(), "")
        self._begun = 0
        self._loaded = 0
        self.latest_lists = GuestLists((), (), registrations.Records(), "")

    def __enter__(self) -> Self:
        try:
            registrations.load_watch_module(self.guest)
        except GuestError:
            # A kernel that does not let register_kprobe() be probed: its lists are all there is.
            self.watched = False
        try:
            self.before = self._now()
            self.watches_uprobes = bool(self.before.lists.records.watched_uprobe_functions)
            self.text_before = GuestText.read(self._layout(self.before), self.before.modules)
        except BaseException:
            self._leave()
            raise
        self._begun = self._loaded = self.before.lists.records.read_at_nanoseconds
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._leave()
        except GuestError:
            if error is None:
                raise

    def _leave(self) -> None:
        if self.watched:
            registrations.unload_watch_module(self.guest)

    def record_subject_start(self, nanoseconds: int = 0) -> None:
        """Record when the subject was started, on the guest's clock; 0 means: before the lists are read next.

        A probe that is registered after that gets a note on how much later.
        """
        self._loaded = nanoseconds

    def await_settled_lists(self, least: float, longest: float, wanted: Callable[[GuestLists], bool]) -> GuestLists:
        """Wait until all lists have stayed the same for a while and `wanted` is true of them; return the lists.

        The wait takes `least` seconds or more, and never more than `longest`, in seconds of a usual guest.
        """
        slow = self.guest.slowness
        began, deadline = time.monotonic(), self.guest.scaled_deadline(longest)
        changed = began
        latest = self._read(self.guest)
        self._loaded = self._loaded or latest.records.read_at_nanoseconds
        while True:
            self.latest_lists = latest
            now = time.monotonic()
            quiet = now - changed >= _QUIET * slow
            if deadline.expired or (now - began >= least and quiet and wanted(latest)):
                return latest
            time.sleep(_POLL)
            lists = self._read(self.guest)
            if lists.settling_state != latest.settling_state:
                changed = time.monotonic()
            latest = lists

    def read_lists(self) -> GuestLists:
        """All lists as they are now."""
        return self._read(self.guest)

    def newly_listed(self, lists: GuestLists) -> list[ListedProbe]:
        """The kprobes that are listed and were not before."""
        return without_one_for_each(lists.kprobes, self.before.lists.kprobes)

    def newly_traced(self, lists: GuestLists) -> list[TracedFunction]:
        """The functions that ftrace lists and did not list before."""
        return list((Counter(lists.traced_functions) - Counter(self.before.lists.traced_functions)).elements())

    def has_new_registrations(self, lists: GuestLists) -> bool:
        """Return True if anything was registered since it began, whether it is still registered or not."""
        errors = [
            *(call.errno for call in self.new_registrations(lists)),
            *(call.errno for call in self.new_uprobe_registrations(lists)),
        ]
        return bool(self.newly_listed(lists) or self.newly_traced(lists) or 0 in errors)

    def new_registrations(self, lists: GuestLists) -> list[Registration]:
        """The registrations since it began."""
        return list(lists.records.registrations[len(self.before.lists.records.registrations) :])

    def new_uprobe_registrations(self, lists: GuestLists) -> list[UprobeRegistration]:
        """The registrations of uprobes since it began."""
        return list(lists.records.uprobe_registrations[len(self.before.lists.records.uprobe_registrations) :])

    def judge(self, lists: GuestLists | None = None) -> Judgement:
        """Judge every probe that there is. Memory that disagrees is read again for a while: jumps come and go late.

        `lists` were read a moment before; without them, and whenever memory disagrees with them, they are read anew.
        """
        deadline = self.guest.scaled_deadline(_AGREE)
        judgement = self._judge(self._moment(lists) if lists else self._now())
        while not judgement.agrees and (lists or not deadline.expired):
            time.sleep(_QUIET)
            lists = None
            judgement = self._judge(self._now())
        return judgement

    def probe_stands_at(self, site: Site, probes: Iterable[JudgedProbe]) -> bool:
        """Return whether one of these probes stands, or stood, where a site is by the files at hand."""
        return probe_stands_at(site, self._judged_files.find_places(site).addresses, probes)

    def reason_not_to_stand_at(self, site: Site) -> str:
        """Why no probe can stand at a site, by the files at hand; empty if one can."""
        return self._judged_files.reason_without_places(site)

    def may_have_symbol(self, site: Site) -> bool:
        """Return whether a file at hand has the symbol of a site, or is missing."""
        named = self._judged_files.find_places(site)
        return bool(named.places or named.missing_reason)

    def late_probes(self, lists: GuestLists | None = None) -> list[JudgedProbe]:
        """The probes that were registered after the last judgement and before `lists` or now, by symbol and offset."""
        records = (lists or self._read(self.guest)).records
        calls = records.registrations[len(self._judged.records.registrations) :]
        files = self._judged_files
        return [
            replace(
                self._timed(JudgedProbe(call.asked_symbol_offset, "kprobe", ProbeVerdict.LATE, call.address), call),
                symbol_offset=files.describe_address(call.address),
                owner=self._owner(files, call),
            )
            for call in calls
            if not call.errno
        ]

    def find_leftovers(self) -> tuple[list[str], list[str]]:
        """Once everything was removed: the probes that are still registered, and text that is not as before.

        Waits for a while until neither is there: what removes probes may return before they are gone. `latest_lists`
        are then the last ones read.
        """
        deadline = self.guest.scaled_deadline(_AGREE)
        while True:
            now = self._now()
            self.latest_lists = now.lists
            calls = self.new_registrations(now.lists)
            standing = [name_of_standing_probe(each, calls) for each in self.newly_listed(now.lists)]
            # A kprobe on an ftrace site is in both lists.
            traced = [each for each in self.newly_traced(now.lists) if each.kind in TRACED_KINDS or not standing]
            standing += [str(each) for each in dict.fromkeys(traced)]
            remaining = {name: each for name, each in now.modules.items() if name in self.before.modules}
            text = GuestText.read(self._layout(now), remaining)
            changed = self._unexplained(TextChanges(self._layout(now), now.modules), now, text)
            if not (standing or changed) or deadline.expired:
                return standing, [self._named(self._files(now), changed)] if changed else []
            time.sleep(_QUIET)

    def _judge(self, during: ListsAndModules) -> Judgement:
        layout = self._layout(during)
        text = GuestText.read(layout, during.modules)
        changes = TextChanges(layout, during.modules)
        files = self._files(during)
        came = self.newly_listed(during.lists)
        calls = self.new_registrations(during.lists)
        found, gone = match_registrations(came, calls)
        standing = [each.address for each in self.before.lists.kprobes]
        judge = KprobeJudge(files, self.text_before, text, standing, during.lists.kprobes)
        probes = [self._with_owner(judge.judge_found_kprobe(each), files, each.registration) for each in found]
        probes += [self._with_owner(judge.judge_registration_of_removed_probe(call), files, call) for call in gone]
        probes += self._traced(during.lists, files, changes, text)
        probes += judge_uprobes(
            self.guest, [call for call in self.new_uprobe_registrations(during.lists) if not call.errno]
        )
        unexplained = self._unexplained(changes, during, text)
        self._judged, self._judged_files = during.lists, files
        return Judgement(
            tuple(probes),
            tuple(call for call in calls if call.errno),
            (self._named(files, unexplained),) if unexplained else (),
            during.lists.records.lost_count,
            during.lists.records.lost_uprobe_count,
        )

    def _traced(
        self, lists: GuestLists, files: LoadedFiles, changes: TextChanges, text: GuestText
    ) -> list[JudgedProbe]:
        """The verdicts on functions that only ftrace lists."""
        new = self.newly_traced(lists)
        owners = self._fprobe_owners(self.guest, files) if any(each.can_be_fprobe for each in new) else FprobeOwners()
        judge = FtraceJudge(files, changes, text, trampoline_addresses(self.guest, new))
        return judge_traced_functions(judge, new, lists.kprobes, owners)

    def _unexplained(self, changes: TextChanges, now: ListsAndModules, text: GuestText) -> list[int]:
        """Bytes of text that differ from before, except those of probes that a list has."""
        kprobes = self.guest.architecture.kprobe_traits
        longest = max(patch.size for patch in kprobes.patches)
        standing = [each.address for each in now.lists.kprobes if "[DISABLED]" not in each.flags]
        probed = {address + byte for address in standing for byte in range(longest)}
        wrong = [at for at in changes.changed_addresses(self.text_before, text) if at not in probed]
        if not wrong:
            return []
        judge = FtraceJudge(self._files(now), changes, text, {})
        traced = {site for each in now.lists.traced_functions for site in judge.ftrace_sites_of(each)}
        gone = {each.address for each in self.before.lists.kprobes} - set(standing)
        traced |= {site for at in gone for site in [changes.ftrace_site_start(at)] if site is not None}
        return [at for at in wrong if changes.ftrace_site_start(at) not in traced]

    def _with_owner(self, judged: JudgedProbe, files: LoadedFiles, call: Registration | None) -> JudgedProbe:
        if call is None:
            return judged
        return self._timed(replace(judged, owner=self._owner(files, call)), call)

    def _timed(self, judged: JudgedProbe, call: Registration) -> JudgedProbe:
        seconds = (call.nanoseconds - self._begun) / 1e9
        late = (call.nanoseconds - self._loaded) / 1e9
        notes = (f"registered {late:.1f} s later", *judged.notes) if late > 0 else judged.notes
        return replace(judged, seconds_since_start=seconds, notes=notes)

    def _owner(self, files: LoadedFiles, call: Registration) -> str:
        """The module that has the probe's handler or its `struct kprobe`, else the program that registered it."""
        modules = files.modules.values()
        return module_with_code(modules, call.handler) or module_with_data(modules, call.kprobe) or call.command

    def _now(self) -> ListsAndModules:
        return self._moment(self._read(self.guest))

    def _moment(self, lists: GuestLists) -> ListsAndModules:
        return ListsAndModules(lists, self._modules.find_modules_in_listing(lists.modules_listing))

    def _files(self, now: ListsAndModules) -> LoadedFiles:
        return LoadedFiles(self._layout(now), now.modules, self._names)

    def _layout(self, now: ListsAndModules) -> Layout:
        at_hand = [
            LoadedTarget(m.module, m.elf, m.sections) for m in now.modules.values() if m.elf and not m.missing_reason
        ]
        return Layout(self.guest, others=at_hand)

    def _named(self, files: LoadedFiles, addresses: Sequence[int]) -> str:
        """The first few of them, as symbol + offset."""
        more = f" and {len(addresses) - _SHOWN} bytes more" if len(addresses) > _SHOWN else ""
        return ", ".join(files.describe_address(address) for address in sorted(addresses)[:_SHOWN]) + more


def name_of_standing_probe(each: ListedProbe, calls: Sequence[Registration]) -> str:
    """A listed probe with its flags, by the kernel's look-up of its address, or as it was asked for.

    The address of a probe whose code was freed may belong to another module by then.
    """
    asked = [call.asked_symbol_offset for call in calls if call.address == each.address and not call.errno]
    name = asked[-1] if "[GONE]" in each.flags and asked else ""
    return f"{name or each.symbol_offset} {' '.join(each.flags)}".strip()


def probe_stands_at(site: Site, addresses: Collection[int], probes: Iterable[JudgedProbe]) -> bool:
    """Return whether one of these probes stands, or stood, at one of the addresses of a site.

    A function that ftrace calls from is known by its name, since its site may lie behind its entry.
    """
    good = [each for each in probes if each.verdict in _STANDING]
    traced = {each.asked for each in good if each.kind in TRACED_KINDS}
    name = str(site).replace("+0x0", "", 1)
    return any(each.address in addresses for each in good) or (not site.offset and name in traced)
