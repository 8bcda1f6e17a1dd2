"""One reader of kernel complaints for every architecture, fed by consoles and dmesg."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from harness.images.vm_recipe import BootNoise
from harness.verdict.cell_verdict_enum import Verdict
from harness.verdict.complaint_kinds import ComplaintKind, Opening, opening_of
from harness.verdict.printk import PrintkRecord, read_records

# A complaint without an end marker ends at a pause or after this many lines. That is enough for a full parisc dump, and
# for the list of memory and tasks that the out-of-memory killer prints (105 lines on parisc).
_PAUSE_SECONDS = 10.0
MOST_LINES = 200

# kernel/panic.c: print_oops_end_marker(), panic(). mm/kasan/report.c and lib/ubsan.c end with a line of `=`.
_END = re.compile(r"---\[ end (?:trace|Kernel panic)")
_RULE = re.compile(r"={30,}$")
_RULED = frozenset({ComplaintKind.KASAN})

_FILE = re.compile(r"(?:^|[\s(])(?P<place>[\w./+-]+\.(?:c|h|S|rs|y|l):\d+)\b")
# __warn() without debug info; KASAN's `in`; a lock's `at:`; the instruction pointer as x86, i386, arm64, RISC-V
# (`epc : `), parisc, ARM, s390, PowerPC, MIPS, SPARC and LoongArch print it.
_FUNCTION = re.compile(
    r"(?:\b(?:at:?|in) |RIP: [0-9a-f]{4}:|EIP: |pc : |IAOQ\[0\]: |PC is at |Krnl PSW : [0-9a-f]{16} [0-9a-f]{16} \("
    r"|NIP \[[0-9a-f]{16}\] |epc   : (?:[0-9a-f]{8}){1,2} |TPC: <|ERA: [0-9a-f]{16} )"
    r"\.?(?P<place>[A-Za-z_][\w.$]*)\+0x"
)


@dataclass(frozen=True)
class Complaint:
    """One complaint of the kernel.

    `headline` is its headline. `source_place` is the source place as the kernel prints it (`mm/slub.c:5134`), else the
    function, else empty. `lines` is all of its text, and `printk_seconds` is the printk time of its first line.
    """

    kind: ComplaintKind
    headline: str
    source_place: str
    lines: tuple[str, ...]
    printk_seconds: float | None = None

    @property
    def verdict(self) -> Verdict:
        """The verdict of a cell whose guest printed this."""
        return self.kind.verdict

    def __str__(self) -> str:
        where = f" [{self.source_place}]" if self.source_place and self.source_place not in self.headline else ""
        return f"{self.headline.strip()}{where}"


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
        """Return True if this opening is another part of the same event."""
        if (
            self.opening.unspecific
            and opening.kind in (ComplaintKind.FAULT, ComplaintKind.BUG, ComplaintKind.WARNING)
            and not opening.unspecific
        ):
            return True
        return self.opening.kind in opening.part_of_kinds and (opening.unspecific or opening not in self.seen)

    def take(self, opening: Opening, text: str) -> None:
        """Take the headline from an opening that is more specific than the present one."""
        self.seen.add(opening)
        if self.opening.unspecific and not opening.unspecific:
            self.opening, self.line = opening, text

    def over(self, record: PrintkRecord) -> bool:
        """Return True if the record can no longer belong to this complaint."""
        paused = (
            record.seconds is not None and self.latest is not None and record.seconds > self.latest + _PAUSE_SECONDS
        )
        return paused or len(self.lines) >= MOST_LINES

    def closed(self) -> Complaint:
        """Return the complaint as far as it was seen."""
        return Complaint(self.opening.kind, self.line, _place(self.line, self.lines), tuple(self.lines), self.began)


def read_complaints(log: str | bytes | Iterable[str], *, timed: bool | None = None) -> list[Complaint]:
    """Return every complaint in a console log or a dmesg, in order. Never raises, wherever the log begins or is cut.

    `timed` is true if this kernel prints times; None detects it from the log. If it does, a line without a time comes
    from a program and is ignored. The run time is linear in the size of the log.
    """
    found: list[Complaint] = []
    current: _Open | None = None
    for record in read_records(log, timed=timed):
        if current and current.over(record):
            found.append(current.closed())
            current = None
        # Where the log is cut, the end of the text may not be the end of the line.
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
    """Return the source place in the headline, else one at the start of a line, else the first function, else ''."""
    own = _FILE.search(headline)
    if own:
        return own["place"]
    # kernel/locking/lockdep.c, lockdep_rcu_suspicious(): the line after the header begins with the place.
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
class SortedComplaints:
    """Complaints that a recipe allows as boot noise, each with its entry, and all others."""

    allowed: tuple[tuple[Complaint, BootNoise], ...]
    alarming: tuple[Complaint, ...]


def sort_by_recipe_boot_noise(complaints: Iterable[Complaint], noise: Sequence[BootNoise]) -> SortedComplaints:
    """Separate the known boot noise, which is recognized by its exact place only."""
    known = {entry.place: entry for entry in noise}
    foreseen: list[tuple[Complaint, BootNoise]] = []
    alarming: list[Complaint] = []
    for complaint in complaints:
        if complaint.source_place and complaint.source_place in known:
            foreseen.append((complaint, known[complaint.source_place]))
        else:
            alarming.append(complaint)
    return SortedComplaints(tuple(foreseen), tuple(alarming))


def confirmed_by_dmesg(complaints: Iterable[Complaint], dmesg: str | bytes) -> list[Complaint]:
    """Return the complaints of a console that the kernel's own log (`dmesg -r`, with facilities) confirms.

    A program can write anything to the console, even a line with a printk time, but that is not in the kernel's log. A
    complaint older than the log's oldest record is kept, because the log is a ring buffer and may have lost it.
    """
    logged = list(read_records(dmesg))
    texts = {record.text for record in logged}
    oldest = min((record.seconds for record in logged if record.seconds is not None), default=float("inf"))
    return [
        complaint
        for complaint in complaints
        if complaint.headline in texts or complaint.printk_seconds is None or complaint.printk_seconds < oldest
    ]


def is_only_complaint(complaints: Sequence[Complaint], source_file: str, function: str) -> bool:
    """Return True if the kernel's only complaint is one of this function in this file, as `WARNING: ... at FILE:N`."""
    places = [each.source_place.partition(":")[0] for each in complaints if f" {function}+0x" in each.headline]
    return places == [source_file] and len(complaints) == 1


def read_sorted_complaints(
    log: str | bytes | Iterable[str],
    noise: Sequence[BootNoise],
    kernel_log: Callable[[], str | bytes | None] | None = None,
) -> SortedComplaints:
    """Return the complaints in a guest's console log, sorted by the boot noise of its recipe.

    `kernel_log` returns the kernel's own log (`dmesg -r`), or None when it cannot be read. It is called only when there
    is an alarming complaint. Complaints that the kernel's log does not confirm are dropped; if the log cannot be read,
    all are kept.
    """
    # Every kernel of ours prints times. A line without one comes from a program, which could forge a panic.
    found = sort_by_recipe_boot_noise(read_complaints(log, timed=True), noise)
    own = kernel_log() if kernel_log and found.alarming else None
    return found if own is None else SortedComplaints(found.allowed, tuple(confirmed_by_dmesg(found.alarming, own)))
