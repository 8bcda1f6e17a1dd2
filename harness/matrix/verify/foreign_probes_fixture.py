"""The fixture `foreign_probes`: judges modules and commands that report nothing, in a cell's guest."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.images import external_build, kernel_samples
from harness.images.build_context import BuildContext
from harness.images.guest_packages_as_archive_or_disk import disk_driver_files_by_name as tool_drivers
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.site import Site
from harness.landing.target import loaded_targets
from harness.landing.verify import listed_probes_and_modules
from harness.landing.verify.fprobe_owners import FprobeOwners
from harness.landing.verify.judged import JudgedProbe, ProbeVerdict, judged_table
from harness.landing.verify.listed_probes_and_modules import GuestLists
from harness.landing.verify.mutants import LIST_LEFT_OUT, OWNER_LEFT_OUT, REGISTERS_ELSEWHERE, TABLE_LIES
from harness.landing.verify.registrations import Records
from harness.landing.verify.site_addresses_from_elf_files import LoadedFiles
from harness.landing.verify.watch_and_judge_registrations import Judgement, WatchedGuest
from harness.matrix.guests.check_after_cell import complaints_since_check, explain_loss
from harness.matrix.verify import plan
from harness.matrix.verify.plan import ModuleToLoad, VerifyRequest
from harness.matrix.verify.subjects import Command, Modules, Subject, SubjectRefused
from harness.matrix.verify.systemtap_run import SystemtapRun

Found = tuple[str, ProbeVerdict]
_TABLE = "/tmp/pinpoint-symbols"
# The only kind of probes/external whose probe is registered after the initializer, by a workqueue.
_LATER = "later"


@dataclass(frozen=True)
class ForeignOutcome:
    """The result of one subject: its probes, and what it left behind, as text."""

    judgement: Judgement
    late_probes: tuple[JudgedProbe, ...]
    still_registered: tuple[str, ...]
    changed_text: tuple[str, ...]

    @property
    def probes(self) -> list[JudgedProbe]:
        """All probes, also those found after the judgement."""
        return [*self.judgement.probes, *self.late_probes]

    def prove_exactly_these_probes(self, *expected: Found) -> None:
        """Raise Missed unless exactly these probes were found, with these verdicts.

        A probe is named by `SYM+0xOFF`, or as the kernel lists it. Unexplained changes of text, probes that are still
        registered, and text that was not restored also raise Missed.
        """
        self._prove([(each.asked, each.verdict) for each in self.probes], expected)

    def prove_at(self, *expected: Found) -> None:
        """As `prove_exactly_these_probes`, but each probe is named by where it stands by the files.

        How its owner asked for it does not matter.
        """
        self._prove([(each.symbol_offset, each.verdict) for each in self.probes], expected)

    def prove_owned_by(self, owner: str) -> None:
        """Raise Missed unless there are probes and each one's owner is this module or this program."""
        if {each.owner for each in self.probes} != {owner}:
            found = ", ".join(sorted({each.owner or "nobody" for each in self.probes})) or "no probe"
            raise Missed("\n".join([f"the owner is {found}; expected {owner}", "", judged_table(self.probes)]))

    def _prove(self, probes: Sequence[Found], expected: Sequence[Found]) -> None:
        found = Counter(probes)
        wrong = [f"unexplained change of text: {text}" for text in self.judgement.unexplained_changes]
        wrong += [f"still registered: {probe}" for probe in self.still_registered]
        wrong += [f"text is not as it was before: {places}" for places in self.changed_text]
        if found != Counter(expected):
            wrong.append(f"found {_listed(found.elements())}; expected {_listed(expected)}")
        if wrong:
            raise Missed("\n".join([*wrong, "", judged_table(self.probes)]))


class ForeignProbes:
    """Judges subjects in one guest; in a mutant's cell it is broken on purpose."""

    def __init__(self, guest: Guest, mutant: str, build_context: BuildContext | None = None) -> None:
        """`build_context` is what samples are built with."""
        self.guest = guest
        self._mutant = mutant
        self._build_context = build_context
        self._before: GuestLists | None = None

    def judge_module(self, module: str, site: Site, kind: str = "plain") -> ForeignOutcome:
        """Load one of the image's modules with parameters `symbol`, `offset` and `kind`; judge, unload, compare.

        Raises SubjectRefused if the kernel does not load it.
        """
        offset = self._elsewhere(site) if self._mutant == REGISTERS_ELSEWHERE else site.offset
        symbol = f"{site.module}:{site.symbol}" if site.module else site.symbol
        file = self.guest.image.modules[module]
        words = [f"kind={kind}", f"symbol={symbol}", f"offset={offset}"]
        load = ModuleToLoad(module, file, file, words, registers_in_initializer_only=kind != _LATER)
        return self._run(Modules(self.guest, [load], "insmod", None), {module: file})

    def judge_own_module(self, name: str, *parameters: str) -> ForeignOutcome:
        """Load a module of the own tree with these parameters (`name=value`); judge its probes, unload, compare.

        Raises SubjectRefused if the kernel does not load it.
        """
        file = self.guest.image.module(name)
        load = ModuleToLoad(name, file, file, list(parameters))
        return self._run(Modules(self.guest, [load], "insmod", None), {name: file})

    def judge_kernel_sample(
        self, name: str, parameter: str, site: Site, other: Site, samples: str = kernel_samples.KPROBES
    ) -> ForeignOutcome:
        """Build a module of the kernel's own `samples`, load it with its parameter, judge, unload.

        In the mutant's cell its parameter names `other`. Raises what building raises, and SubjectRefused.
        """
        assert self._build_context is not None
        image = self.guest.image
        source = kernel_samples.obtain_sample_sources(image, self._build_context, samples) / name
        chosen = other if self._mutant == REGISTERS_ELSEWHERE else site
        with tempfile.TemporaryDirectory(prefix="pinpoint-sample-") as directory:
            (file,) = external_build.build(source, image, self._build_context, Path(directory))
            load = ModuleToLoad(name, file, file, [f"{parameter}={chosen.symbol}"])
            return self._run(Modules(self.guest, [load], "insmod", None), {name: file})

    def _elsewhere(self, site: Site) -> int:
        """Return the offset of the function's next instruction on which the kernel accepts a probe."""
        layout = Layout(self.guest, loaded_targets(self.guest))
        return (layout.next_accepted_site(site) or layout.next_instruction_site(site)).offset

    def judge_command(
        self, command: str, site: Site, other: Site | None = None, *, tools: bool = False
    ) -> ForeignOutcome:
        """Run a shell command that registers probes and removes them when it is interrupted; judge it.

        `{symbol}`, `{offset}` and `{table}` stand for the site's symbol, its offset, and a file of addresses and
        symbols as /proc/kallsyms has them. In the mutant's cell the first two are those of `other`, or, without it, of
        the next instruction that accepts a probe. With `tools` the command runs among the guest's packages.
        """
        chosen = site
        if self._mutant == REGISTERS_ELSEWHERE:
            chosen = other or site.at_offset(self._elsewhere(site))
        table = self._table() if "{table}" in command else ""
        text = command.format(symbol=chosen.symbol, offset=chosen.offset, table=table)
        return self._run(Command(self.guest, text, None, chroot=tools), tool_drivers(self.guest.image))

    def judge_systemtap(self, script: str, site: Site, other: Site) -> ForeignOutcome:
        """Compile a systemtap script for the guest's kernel, run it with its staprun among the guest's packages, judge.

        `{symbol}` stands for the site's symbol; in the mutant's cell for that of `other`. Raises what compiling raises.
        """
        assert self._build_context is not None
        symbol = (other if self._mutant == REGISTERS_ELSEWHERE else site).symbol
        with tempfile.TemporaryDirectory(prefix="pinpoint-stap-") as directory:
            request = VerifyRequest(script=script.format(symbol=symbol))
            module = plan.compile_systemtap_script(request, self.guest.image, self._build_context, Path(directory))
            assert module is not None
            return self._run(SystemtapRun(self.guest, module, None, script), {module.name: module.copied_file})

    def _table(self) -> str:
        """Write the kernel's functions to a file of the guest; for a mutant each with the next one's address."""
        layout = Layout(self.guest)
        # The kernel refuses a kprobe on a preamble (`__pfx_f`), which is what follows a function since 6.2.
        functions = sorted(layout.functions("", preambles=False), key=lambda symbol: symbol.address)
        shift = 1 if self._mutant == TABLE_LIES else 0
        pairs = zip(functions, functions[shift:], strict=False)
        lines = (f"{there.address + layout.slide:x} t {named.name}\n" for named, there in pairs)
        self.guest.put("".join(lines).encode(), _TABLE)
        return _TABLE

    def _run(self, subject: Subject, own: Mapping[str, Path]) -> ForeignOutcome:
        targets = {target.module: target.elf.path for target in loaded_targets(self.guest)}
        self._before = None
        with WatchedGuest(
            self.guest, {**targets, **own}, read=self._read, fprobe_owners=self._fprobe_owners
        ) as watched:
            try:
                subject.start()
                watched.record_subject_start(subject.start_time_ns)
                subject.wait_until_registered(watched)
                # From here on, when the probes are there, the mutant's lists leave them out.
                self._before = watched.before.lists
                judgement = watched.judge()
                late = watched.late_probes()
            except SubjectRefused as refused:
                # A kernel that oopses ends the program.
                if complaints_since_check(self.guest):
                    raise explain_loss(self.guest, GuestError(refused.what, where=self.guest.name)) from refused
                raise
            finally:
                subject.stop()
            standing, changed = watched.find_leftovers()
        return ForeignOutcome(judgement, tuple(late), tuple(standing), tuple(changed))

    def _fprobe_owners(self, guest: Guest, files: LoadedFiles) -> FprobeOwners:
        """Read the owners of fprobes; in the cell of one mutant there are none."""
        return FprobeOwners() if self._mutant == OWNER_LEFT_OUT else FprobeOwners.read(guest, files)

    def _read(self, guest: Guest) -> GuestLists:
        """Read all lists; in the cells of two mutants, return them without additions or without what shows an owner."""
        lists = listed_probes_and_modules.read_lists(guest)
        if self._mutant == OWNER_LEFT_OUT:
            calls = tuple(replace(call, handler=0, kprobe=0) for call in lists.records.registrations)
            return replace(lists, records=replace(lists.records, registrations=calls))
        before = self._before
        if self._mutant != LIST_LEFT_OUT or before is None:
            return lists
        records = Records((), 0, lists.records.read_at_nanoseconds)
        return replace(lists, kprobes=before.kprobes, traced_functions=before.traced_functions, records=records)


def _listed(probes: Iterable[Found]) -> str:
    return ", ".join(sorted(f"{asked} {verdict.value}" for asked, verdict in probes)) or "no probe"
