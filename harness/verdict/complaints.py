"""One reader of kernel complaints for every architecture, fed by consoles and dmesg."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from harness.images.recipe import BootNoise
from harness.verdict.complaint_kinds import ComplaintKind, Opening, opening_of
from harness.verdict.printk import Record, records
from harness.verdict.verdict import Verdict

# A complaint without an end marker ends here at the latest: at a pause, or after what a full parisc dump needs, or the
# list of memory and tasks that the out-of-memory killer prints (105 lines on parisc).
_PAUSE_SECONDS = 10.0
MOST_LINES = 200

# kernel/panic.c: print_oops_end_marker(), panic(). mm/kasan/report.c and lib/ubsan.c close with a rule.
_END = re.compile(r"---\[ end (?:trace|Kernel panic)")
_RULE = re.compile(r"={30,}$")
_RULED = frozenset({ComplaintKind.KASAN})

_FILE = re.compile(r"(?:^|[\s(])(?P<place>[\w./+-]+\.(?:c|h|S|rs|y|l):\d+)\b")
# __warn() without debug info; KASAN's `in`; a lock's `at:`; the instruction pointer as x86, arm64, parisc show it.
_FUNCTION = re.compile(r"(?:\b(?:at:?|in) |RIP: [0-9a-f]{4}:|pc : |IAOQ\[0\]: )(?P<place>[A-Za-z_][\w.$]*)\+0x")


@dataclass(frozen=True)
class Complaint:
    """One thing the kernel complained of.

    `line` is its headline, `place` the source place as the kernel gives it (`mm/slub.c:5134`), the function where it
    gives none, empty where it gives neither; `lines` is all of its text; `seconds` the printk time of its first line.
    """

    kind: ComplaintKind
    line: str
    place: str
    lines: tuple[str, ...]
    seconds: float | None = None

    @property
    def verdict(self) -> Verdict:
        """What a cell ends in whose guest printed this."""
        return self.kind.verdict

    def __str__(self) -> str:
        where = f" [{self.place}]" if self.place and self.place not in self.line else ""
        return f"{self.line.strip()}{where}"


@dataclass
class _Open:
    """A complaint whose end has not been seen."""

    opening: Opening
    line: str
    lines: list[str]
    began: float | None
    latest: float | None
    seen: set[Opening] = field(default_factory=set)

    def takes(self, opening: Opening) -> bool:
        """Is this opening another part of the same event?"""
        if (
            self.opening.weak
            and opening.kind in (ComplaintKind.FAULT, ComplaintKind.BUG, ComplaintKind.WARNING)
            and not opening.weak
        ):
            return True
        return self.opening.kind in opening.within and (opening.weak or opening not in self.seen)

    def take(self, opening: Opening, text: str) -> None:
        """Take the headline from a part that is more specific than the present one."""
        self.seen.add(opening)
        if self.opening.weak and not opening.weak:
            self.opening, self.line = opening, text

    def over(self, record: Record) -> bool:
        """Can the record no longer belong to this complaint?"""
        paused = (
            record.seconds is not None and self.latest is not None and record.seconds > self.latest + _PAUSE_SECONDS
        )
        return paused or len(self.lines) >= MOST_LINES

    def closed(self) -> Complaint:
        """The complaint as far as it was seen."""
        return Complaint(self.opening.kind, self.line, _place(self.line, self.lines), tuple(self.lines), self.began)


def read(log: str | bytes | Iterable[str], *, timed: bool | None = None) -> list[Complaint]:
    """Every complaint in a console log or a dmesg, in order. Never raises, wherever the log begins or is cut.

    `timed`: does this kernel print times (None: detected from the log)? If so, lines without one are a program's, not
    the kernel's, and are passed over. The time that it takes grows as the log's size does.
    """
    found: list[Complaint] = []
    current: _Open | None = None
    for record in records(log, timed=timed):
        if current and current.over(record):
            found.append(current.closed())
            current = None
        # What looks like a line's end may not be one where the log is cut.
        opening = opening_of(record.text + "..." if record.cut else record.text)
        if opening and current and current.takes(opening):
            current.take(opening, record.text)
        elif opening:
            if current:
                found.append(current.closed())
            current = _Open(opening, record.text, [], record.seconds, record.seconds, {opening})
        if current:
            current.lines.append(record.text)
            current.latest = record.seconds
            if _ends(current, record.text):
                found.append(current.closed())
                current = None
    if current:
        found.append(current.closed())
    return found


def _ends(current: _Open, text: str) -> bool:
    return bool(_END.match(text) or (current.opening.kind in _RULED and _RULE.match(text)))


def _place(headline: str, lines: Sequence[str]) -> str:
    """The first source place of the headline, else of a line that is about nothing else, else the first function."""
    own = _FILE.search(headline)
    if own:
        return own["place"]
    # kernel/locking/lockdep.c, lockdep_rcu_suspicious(): the place begins the line after the header.
    for line in lines:
        match = _FILE.match(line)
        if match:
            return match["place"]
    for line in (headline, *lines):
        match = _FUNCTION.search(line)
        if match:
            return match["place"]
    return ""


@dataclass(frozen=True)
class Sorted:
    """Complaints that a recipe foresees, each with its entry, and those that it does not."""

    allowed: tuple[tuple[Complaint, BootNoise], ...]
    alarming: tuple[Complaint, ...]


def allowed(complaints: Iterable[Complaint], noise: Sequence[BootNoise]) -> Sorted:
    """Split off known boot noise, by its exact place and nothing else."""
    known = {entry.place: entry for entry in noise}
    foreseen: list[tuple[Complaint, BootNoise]] = []
    alarming: list[Complaint] = []
    for complaint in complaints:
        if complaint.place and complaint.place in known:
            foreseen.append((complaint, known[complaint.place]))
        else:
            alarming.append(complaint)
    return Sorted(tuple(foreseen), tuple(alarming))


def confirmed(complaints: Iterable[Complaint], dmesg: str | bytes) -> list[Complaint]:
    """The complaints of a console that the kernel's own log (`dmesg -r`, with facilities) bears out.

    What a program writes to the console can look like anything, a printk time included; it is not in the kernel's log.
    A complaint older than the oldest record there is kept: the log is a ring and has forgotten it.
    """
    logged = list(records(dmesg))
    texts = {record.text for record in logged}
    oldest = min((record.seconds for record in logged if record.seconds is not None), default=float("inf"))
    return [
        complaint
        for complaint in complaints
        if complaint.line in texts or complaint.seconds is None or complaint.seconds < oldest
    ]


def complaints_in(
    log: str | bytes | Iterable[str],
    noise: Sequence[BootNoise],
    kernel_log: Callable[[], str | bytes | None] | None = None,
) -> Sorted:
    """The complaints in a console log of a guest of ours, sorted by its recipe's boot noise.

    `kernel_log` returns the kernel's own log (`dmesg -r`), or None when it cannot be read. It is called only when there
    is an alarming complaint; those that the kernel's log does not confirm are dropped, none when it cannot be read.
    """
    # Every kernel of ours prints times. A line without one is a program's: a forged panic would pass for a real one.
    found = allowed(read(log, timed=True), noise)
    own = kernel_log() if kernel_log and found.alarming else None
    return found if own is None else Sorted(found.allowed, tuple(confirmed(found.alarming, own)))
