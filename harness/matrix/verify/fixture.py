"""The fixture `foreign`: judges modules and commands that report nothing, in a cell's guest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from harness.guest.guest import Guest
from harness.landing.landing import Missed
from harness.landing.layout import Layout
from harness.landing.site import Site
from harness.landing.target import loaded_targets
from harness.landing.verify import moment
from harness.landing.verify.judged import Finding, JudgedProbe, judged_table
from harness.landing.verify.moment import GuestLists
from harness.landing.verify.mutants import LIST_LEFT_OUT, REGISTERS_ELSEWHERE
from harness.landing.verify.registrations import Records
from harness.landing.verify.watched import Judgement, Watched
from harness.matrix.verify.plan import ModuleToLoad
from harness.matrix.verify.subjects import Command, Modules, Subject

Found = tuple[str, Finding]


@dataclass(frozen=True)
class ForeignOutcome:
    """The result of one subject: its probes, and what it left behind, as text."""

    judgement: Judgement
    late: tuple[JudgedProbe, ...]
    standing: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def probes(self) -> list[JudgedProbe]:
        """All probes, also those found after the judgement."""
        return [*self.judgement.probes, *self.late]

    def prove(self, *expected: Found) -> None:
        """Raise Missed unless exactly these probes were found, with these findings.

        A probe is named by `SYM+0xOFF`, or as the kernel lists it. Unexplained changes of text, probes that are still
        registered, and text that was not restored also raise Missed.
        """
        found = Counter((each.asked, each.finding) for each in self.probes)
        wrong = [f"unexplained change of text: {text}" for text in self.judgement.unexplained]
        wrong += [f"still registered: {probe}" for probe in self.standing]
        wrong += [f"text is not as it was before: {places}" for places in self.changed]
        if found != Counter(expected):
            wrong.append(f"found {_listed(found.elements())}; expected {_listed(expected)}")
        if wrong:
            raise Missed("\n".join([*wrong, "", judged_table(self.probes)]))


class ForeignProbes:
    """Judges subjects in one guest; in a mutant's cell it is broken on purpose."""

    def __init__(self, guest: Guest, mutant: str) -> None:
        self.guest = guest
        self._mutant = mutant
        self._before: GuestLists | None = None

    def module(self, module: str, site: Site, kind: str = "plain") -> ForeignOutcome:
        """Load one of the image's modules with parameters `symbol`, `offset` and `kind`; judge, unload, compare.

        Raises Refused if the kernel does not load it.
        """
        offset = self._elsewhere(site) if self._mutant == REGISTERS_ELSEWHERE else site.offset
        symbol = f"{site.module}:{site.symbol}" if site.module else site.symbol
        file = self.guest.image.modules[module]
        words = [f"kind={kind}", f"symbol={symbol}", f"offset={offset}"]
        load = ModuleToLoad(module, file, file, words)
        return self._run(Modules(self.guest, [load], "insmod", None), {module: file})

    def _elsewhere(self, site: Site) -> int:
        """Return the offset of the function's next instruction."""
        return Layout(self.guest, loaded_targets(self.guest)).following(site).offset

    def command(self, command: str) -> ForeignOutcome:
        """Run a shell command that registers probes, and judge them. The case must undo what it leaves in tracefs."""
        return self._run(Command(self.guest, command, None, chroot=False), {})

    def _run(self, subject: Subject, files: Mapping[str, object]) -> ForeignOutcome:
        targets = {target.module: target.elf.path for target in loaded_targets(self.guest)}
        own = {name: self.guest.image.modules[name] for name in files}
        self._before = None
        with Watched(self.guest, {**targets, **own}, read=self._read) as watched:
            self._before = watched.before.lists
            try:
                subject.start()
                watched.set_start(subject.began)
                subject.settle(watched)
                judgement = watched.judge()
                late = watched.late_probes()
            finally:
                subject.stop()
            standing, changed = watched.left()
        return ForeignOutcome(judgement, tuple(late), tuple(standing), tuple(changed))

    def _read(self, guest: Guest) -> GuestLists:
        """Read all lists; in the cell of the mutant LIST_LEFT_OUT, return them without additions."""
        lists = moment.read_lists(guest)
        before = self._before
        if self._mutant != LIST_LEFT_OUT or before is None:
            return lists
        records = Records((), 0, lists.records.nanoseconds)
        return replace(lists, kprobes=before.kprobes, traced=before.traced, records=records)


def _listed(probes: Iterable[Found]) -> str:
    return ", ".join(sorted(f"{asked} {finding.value}" for asked, finding in probes)) or "no probe"
