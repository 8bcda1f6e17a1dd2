"""Runs foreign modules, or a foreign command, on one VM: from a checked plan to a report."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from harness.core.elf import Elf
from harness.core.errors import DeadlineExceeded, GuestError, GuestLost, GuestNotRun, PinpointError
from harness.guest.guest import Guest
from harness.images import guest_packages_as_archive_or_disk, systemtap
from harness.images.build_context import BuildContext
from harness.images.guest_packages_as_archive_or_disk import PackedTools
from harness.images.image import Image
from harness.landing import linked_symbols
from harness.landing.code import kprobe_sites_in_module_file, kprobe_types_in_module_file
from harness.landing.code.system_map import SystemMap
from harness.landing.site import Site
from harness.landing.verify import changed_settings
from harness.landing.verify.judged import JudgedProbe, ProbeVerdict
from harness.landing.verify.registrations import Registration
from harness.landing.verify.watch_and_judge_registrations import Judgement, WatchedGuest
from harness.matrix.verify import guest_start_and_kernel_complaints as guests
from harness.matrix.verify import systemtap_run
from harness.matrix.verify.guest_start_and_kernel_complaints import KernelComplaintsAndState
from harness.matrix.verify.plan import ModuleToLoad, VerifyRequest, parse_expected_site
from harness.matrix.verify.reload_probed_modules import reload_probed_modules
from harness.matrix.verify.report import Report
from harness.matrix.verify.subjects import Command, CommandWithModules, Modules, Subject, SubjectRefused
from harness.matrix.verify.systemtap_run import SystemtapRun
from harness.verdict.complaints import Complaint
from harness.verdict.printk import line_without_control_codes

_SHOWN_LINES = 12

_LOG_LINES = 40


class SubjectRun:
    """One subject in one guest: it is started, judged and stopped, then the guest is compared with its state before."""

    def __init__(
        self,
        guest: Guest,
        subject: Subject,
        files: Mapping[str, Path],
        expected: Sequence[Site] = (),
        names: SystemMap | None = None,
    ) -> None:
        """`files` are ELF files in addition to the image's own, by module name."""
        self.guest = guest
        self.subject = subject
        self.seconds_by_phase: dict[str, float] = {}
        self.notes: list[str] = []
        self.wrongs: list[str] = []
        self.probes: list[JudgedProbe] = []
        self._files = dict(files)
        self._expected = list(expected)
        self._names = names
        self.reloaded_modules: Modules | None = None
        """The modules among which the probed ones are removed and loaded again, None for no removal."""
        self._refused: list[Registration] = []

    def run(self) -> None:
        """Run the subject. Raises SubjectRefused when it could not be started and the kernel did not complain."""
        kernel = KernelComplaintsAndState(
            self.guest, self.subject.backtrace_printing_modules, self.subject.warning_texts_in_module_files
        )
        refusal: SubjectRefused | None = None
        try:
            before = changed_settings.read_settings(self.guest)
            try:
                self._watched()
            except SubjectRefused as error:
                refusal = error
            with self._timed("check-up"):
                after = kernel.take_complaints_and_read_state()
                changed = changed_settings.describe_changed_settings(before, changed_settings.read_settings(self.guest))
        except (GuestLost, DeadlineExceeded) as lost:
            self._complained(kernel.read_last_complaints())
            if not self.wrongs:
                self.wrongs.append(str(lost))
            return
        except GuestError as error:
            with suppress(PinpointError):
                kernel.take_complaints_and_read_state()
            self._complained(kernel.read_last_complaints())
            # After an oops, for example, the guest's lists cannot be read. Otherwise this is no result of the subject.
            if not self.wrongs:
                raise
            self.wrongs.append(str(error))
            return
        if refusal and not kernel.complaints:
            raise _because(self.subject.refusal_with_explanation(refusal, kernel.log_tail(_LOG_LINES)), self._refused)
        if refusal:
            self.wrongs.append(str(refusal))
        self._complained(kernel.complaints)
        crashes = kernel.crashes_without_complaint(after)
        if crashes:
            self.wrongs.append(f"the kernel has {crashes}, and its console does not show why:")
            self.wrongs += [f"    {line.strip()}" for line in kernel.log_tail(_SHOWN_LINES)]
        if kernel.intended_backtrace_count:
            count = kernel.intended_backtrace_count
            self.notes.append(f"{count} backtraces on the console are the module's own: it calls dump_stack()")
        if kernel.module_lines:
            more = f" (and {len(kernel.module_lines) - 1} more lines)" if len(kernel.module_lines) > 1 else ""
            shown = line_without_control_codes(kernel.module_lines[0])
            self.notes.append(f"{shown!r}{more} is a text of the module's own file, and no WARN of the kernel")
        self.notes += self.subject.notes
        self.notes += [f"left behind: {thing}" for thing in kernel.initial_state.list_changes(after, ())]
        self.notes += [f"left changed: {thing}" for thing in changed]

    def _watched(self) -> None:
        with ExitStack() as stack:
            with self._timed("before"):
                watched = stack.enter_context(WatchedGuest(self.guest, self._files, self._names))
            if not watched.watched:
                self.notes.append(
                    "register_kprobe() is not watched: a probe that is removed before the lists are read is not seen"
                )
            if self.guest.traits.uprobes and not watched.watches_uprobes:
                self.notes.append(
                    "the registration of uprobes is not watched, and the kernel lists none: none is judged"
                )
            try:
                with self._timed("start"):
                    self.subject.start()
                watched.record_subject_start(self.subject.start_time_ns)
                with self._timed("settle"):
                    self.subject.wait_until_registered(watched)
                with self._timed("judge"):
                    judgement = watched.judge(watched.latest_lists)
            except BaseException as error:
                with _noted(error):
                    if isinstance(error, SubjectRefused):
                        self._refused = [call for call in watched.new_registrations(watched.read_lists()) if call.errno]
                    self.subject.stop()
                raise
            self._take(judgement, watched)
            if self.reloaded_modules:
                with self._timed("remove targets"):
                    outcome = reload_probed_modules(self.guest, watched, judgement.probes, self.reloaded_modules)
                self.notes += outcome.notes
                self.wrongs += outcome.wrongs
            with self._timed("removal"):
                self.subject.stop()
                standing, changed = watched.find_leftovers()
                self.probes += watched.late_probes(watched.latest_lists)
            left = [f"still registered: {probe}" for probe in standing]
            (self.notes if may_leave_probes(self.subject) else self.wrongs).extend(left)
            self.wrongs += [f"text is not as it was before: {places}" for places in changed]

    def _take(self, judgement: Judgement, watched: WatchedGuest) -> None:
        self.probes += judgement.probes
        self.wrongs += [f"text changed where no list has a probe: {places}" for places in judgement.unexplained_changes]
        self.notes += [
            f"the kernel refused {call.asked_symbol_offset or 'an address'}: {call.refusal}"
            for call in judgement.refused_registrations
        ]
        if judgement.lost_count:
            lost = f"{judgement.lost_count} registrations of kprobes were not recorded"
            self.notes.append(f"{lost}: a probe that is removed before the lists are read may not be seen")
        if judgement.lost_uprobe_count:
            lost = f"{judgement.lost_uprobe_count} registrations of uprobes were not recorded"
            self.wrongs.append(f"{lost}, so their probes are not judged")
        absent = [site for site in self._expected if not watched.probe_stands_at(site, self.probes)]
        self.probes += [_absent(site, watched.reason_not_to_stand_at(site)) for site in absent]
        if not self.probes:
            self.wrongs.append(
                "no probe was registered: there is nothing to judge; give --settle SECONDS if one is registered later"
            )
        self._hints(judgement, watched)

    def _hints(self, judgement: Judgement, watched: WatchedGuest) -> None:
        """Add a note for each kprobe in a file's data on a function for which no registration is known.

        Modules change offsets before they register, so offsets are not compared. A name that no file at hand has is a
        text of another structure, not a kprobe's, and so is a name in an object of another type.
        """
        asked = [each.asked for each in judgement.probes] + [
            call.asked_symbol_offset for call in judgement.refused_registrations
        ]
        known = {each.rpartition("+")[0] for each in asked}
        known |= {each.symbol_offset.partition("+")[0] for each in judgement.probes}
        for name, file in self._files.items():
            elf = Elf.read_cached(file)
            unknown = [
                each
                for each in kprobe_sites_in_module_file.find_possible_kprobes(elf)
                if not {_asked(each.site).rpartition("+")[0], each.site.symbol} & known
                and watched.may_have_symbol(each.site)
            ]
            self.notes += [
                f"{name} has a kprobe on {_asked(each.site)} in its data that was not registered"
                for each in kprobe_types_in_module_file.kprobes_by_type(elf, unknown, self.guest.image.vmlinux)
            ]

    def _complained(self, complaints: Sequence[Complaint]) -> None:
        """Add the first lines of the kernel's first complaint, because it usually causes the others."""
        if not complaints:
            return
        first = complaints[0]
        more = f" (and {len(complaints) - 1} more)" if len(complaints) > 1 else ""
        self.wrongs.append(f"the kernel complained: {first}{more}")
        self.wrongs += [f"    {line.strip()}" for line in first.lines[:_SHOWN_LINES]]

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds_by_phase[phase] = self.seconds_by_phase.get(phase, 0.0) + time.monotonic() - began


def may_leave_probes(subject: Subject) -> bool:
    """A command may, and so may a module that could not be unloaded; modules that have gone may not."""
    return not isinstance(subject, Modules) or bool(subject.still_loaded)


def _absent(site: Site, why: str) -> JudgedProbe:
    """The verdict on an expected probe that is not there; `why` is empty or shows why none can be."""
    reason = "it is expected, and no probe stands there"
    return JudgedProbe(site.spec, "kprobe", ProbeVerdict.MISSED, reason=f"{reason}: {why}" if why else reason)


def _asked(site: Site) -> str:
    """Return the site in the form in which requests to register_kprobe() are recorded, with its offset."""
    return f"{site.module}:{site.symbol}+{site.offset:#x}" if site.module else f"{site.symbol}+{site.offset:#x}"


def _because(refusal: SubjectRefused, refused: Sequence[Registration]) -> SubjectRefused:
    """A refusal with the registrations that the kernel had refused before: often they are its reason."""
    # insmod of busybox loads a file that finit_module() refused by init_module() once more.
    calls = ", ".join(
        dict.fromkeys(f"register_kprobe({call.asked_symbol_offset or 'an address'}) {call.refusal}" for call in refused)
    )
    return (
        SubjectRefused(f"{refusal.what}; refused: {calls}", where=refusal.where, mend=refusal.mend)
        if calls
        else refusal
    )


@contextmanager
def _noted(error: BaseException) -> Iterator[None]:
    """Add an error that cleaning up raises as a note to `error`, which made the cleaning up necessary."""
    try:
        yield
    except (GuestError, DeadlineExceeded, GuestNotRun) as another:
        error.add_note(str(another))


def _packages(image: Image, wanted: VerifyRequest, build_context: BuildContext) -> PackedTools | None:
    """The packages that a command or a script runs among. Raises as obtaining them."""
    if wanted.script:
        names = (*wanted.packages, *systemtap_run.PACKAGES)
        return guest_packages_as_archive_or_disk.obtain_packed_tools(
            image.recipe, names, build_context, systemtap.SUITE
        )
    if wanted.packages:
        return guest_packages_as_archive_or_disk.obtain_packed_tools(image.recipe, wanted.packages, build_context)
    return None


def verify_on_vm(
    image: Image,
    wanted: VerifyRequest,
    modules: Sequence[ModuleToLoad],
    build_context: BuildContext,
    log: Path,
    script: ModuleToLoad | None = None,
) -> Report:
    """Run it all on a guest of the image; `script` is the module of a systemtap script.

    Raises UsageError for what the kernel does not take, BootError, HostError.
    """
    names = SystemMap.read(wanted.system_map) if wanted.system_map else None
    if names:
        names.demand_map_of(Elf.read_cached(image.vmlinux))
    packages = _packages(image, wanted, build_context)
    with suppress(FileNotFoundError):
        log.unlink()
    began = time.monotonic()
    reading = threading.Thread(target=linked_symbols.preload_kernel_file, args=(image,), daemon=True)
    reading.start()
    with guests.start_guest(image, build_context, log, packages) as guest:
        reading.join()
        started = time.monotonic() - began
        settle = wanted.settle_seconds
        loaded = Modules(guest, modules, "insmod" if wanted.command or script else wanted.loader, settle)
        subject: Subject = loaded
        if script:
            subject = CommandWithModules(loaded, SystemtapRun(guest, script, settle, f"`{wanted.script}`"))
        elif wanted.command:
            command = Command(guest, wanted.command, settle, chroot=bool(wanted.packages))
            subject = CommandWithModules(loaded, command)
        judged = [*modules, *([script] if script else [])]
        files = {
            each.name: each.copied_file for each in judged
        } | guest_packages_as_archive_or_disk.disk_driver_files_by_name(guest.image)
        run = SubjectRun(guest, subject, files, [parse_expected_site(word) for word in wanted.expected_sites], names)
        run.reloaded_modules = loaded if wanted.remove_targets else None
        with build_context.bus.step(image.recipe.name, "verify"):
            run.run()
    seconds = {"guest": started, **run.seconds_by_phase}
    probes, wrongs, notes = tuple(run.probes), tuple(run.wrongs), tuple(run.notes)
    return Report(image.recipe.name, image.release, subject.display_name, probes, wrongs, notes, seconds, log)
