"""The fixture `foreign`: modules and commands that report nothing, judged in a cell's guest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from harness.guest.guest import Guest
from harness.landing.landing import Missed
from harness.landing.layout import Layout
from harness.landing.site import Site
from harness.landing.target import loaded
from harness.landing.verify import moment
from harness.landing.verify.judged import Finding, Judged, table
from harness.landing.verify.moment import Lists
from harness.landing.verify.mutants import LIST_LEFT_OUT, REGISTERS_ELSEWHERE
from harness.landing.verify.registrations import Records
from harness.landing.verify.watched import Judgement, Watched
from harness.matrix.verify.plan import ToLoad
from harness.matrix.verify.subjects import Command, Modules, Subject

Found = tuple[str, Finding]


@dataclass(frozen=True)
class ForeignOutcome:
    """What was found of one subject: its probes, and in words what was left of it."""

    judgement: Judgement
    late: tuple[Judged, ...]
    standing: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def probes(self) -> list[Judged]:
        """Every probe."""
        return [*self.judgement.probes, *self.late]

    def prove(self, *expected: Found) -> None:
        """Raise Missed unless there are these probes, as `SYM+0xOFF` or what the kernel lists, with these verdicts.

        Text that nothing explains, probes that are left and text that is not as it was raise it, too.
        """
        found = Counter((each.asked, each.finding) for each in self.probes)
        wrong = [f"unexplained change of text: {text}" for text in self.judgement.unexplained]
        wrong += [f"still registered: {probe}" for probe in self.standing]
        wrong += [f"text is not as it was before: {places}" for places in self.changed]
        if found != Counter(expected):
            wrong.append(f"found {_told(found.elements())}; expected {_told(expected)}")
        if wrong:
            raise Missed("\n".join([*wrong, "", table(self.probes)]))


class Foreign:
    """Judges subjects in one guest; broken on purpose in a mutant's cell."""

    def __init__(self, guest: Guest, mutant: str) -> None:
        self.guest = guest
        self._mutant = mutant
        self._before: Lists | None = None

    def module(self, module: str, site: Site, kind: str = "plain") -> ForeignOutcome:
        """Load one of the image's modules that takes `symbol`, `offset` and `kind`; judge, unload, compare.

        Raises Refused when the kernel does not load it.
        """
        offset = self._elsewhere(site) if self._mutant == REGISTERS_ELSEWHERE else site.offset
        symbol = f"{site.module}:{site.symbol}" if site.module else site.symbol
        file = self.guest.image.modules[module]
        words = [f"kind={kind}", f"symbol={symbol}", f"offset={offset}"]
        load = ToLoad(module, file, file, words)
        return self._run(Modules(self.guest, [load], "insmod", None), {module: file})

    def _elsewhere(self, site: Site) -> int:
        """The offset of the function's next instruction."""
        return Layout(self.guest, loaded(self.guest)).following(site).offset

    def command(self, command: str) -> ForeignOutcome:
        """Run a shell command that registers probes; what it left in tracefs is removed by `undo` of the case."""
        return self._run(Command(self.guest, command, None, chroot=False), {})

    def _run(self, subject: Subject, files: Mapping[str, object]) -> ForeignOutcome:
        targets = {target.module: target.elf.path for target in loaded(self.guest)}
        own = {name: self.guest.image.modules[name] for name in files}
        self._before = None
        with Watched(self.guest, {**targets, **own}, read=self._read) as watched:
            self._before = watched.before.lists
            try:
                subject.start()
                watched.started(subject.began)
                subject.settle(watched)
                judgement = watched.judge()
                late = watched.late()
            finally:
                subject.stop()
            standing, changed = watched.left()
        return ForeignOutcome(judgement, tuple(late), tuple(standing), tuple(changed))

    def _read(self, guest: Guest) -> Lists:
        """All lists; without what came, in a cell of the mutant that leaves it out."""
        lists = moment.read(guest)
        before = self._before
        if self._mutant != LIST_LEFT_OUT or before is None:
            return lists
        records = Records((), 0, lists.records.nanoseconds)
        return replace(lists, kprobes=before.kprobes, traced=before.traced, records=records)


def _told(probes: Iterable[Found]) -> str:
    return ", ".join(sorted(f"{asked} {finding.value}" for asked, finding in probes)) or "no probe"
