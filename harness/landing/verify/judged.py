"""One probe and what was found of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from enum import Enum

from harness.landing.landing_judgment import Landing


class ProbeVerdict(Enum):
    """The verdict on one probe. Only `missed` is a failure."""

    LANDED = "landed"
    MISSED = "missed"
    """It stands elsewhere than its symbol + offset, or past its function's end, or memory does not have it."""
    DISABLED = "disabled"
    """It is registered, not armed, and stands where it should."""
    GONE = "gone"
    """It was registered where it should, and removed before its memory was read."""
    LATE = "late"
    """It was registered after memory was read."""
    NOT_JUDGED = "not judged"
    """Something is missing that the verdict needs: `reason` names it."""


@dataclass(frozen=True)
class JudgedProbe:
    """One probe.

    `asked` is what its owner asked for, as `MOD:SYM+0xOFF`, or what the kernel lists for one that was asked for by
    address; `kind` is `kprobe`, `kretprobe`, `fentry`, `fprobe` or `ftrace`; `address` is None for a probe of which no
    address is known; `symbol_offset` is the address as symbol + offset by the files; `memory_change` is what changed
    there; `owner` is who registered it; `notes` are facts for the reader; `seconds_since_start` counts from the
    beginning of what was run.
    """

    asked: str
    kind: str
    verdict: ProbeVerdict
    address: int | None = None
    symbol_offset: str = ""
    memory_change: str = ""
    owner: str = ""
    reason: str = ""
    notes: tuple[str, ...] = ()
    seconds_since_start: float | None = None
    landing: Landing | None = None

    @property
    def verdict_line(self) -> str:
        """The verdict with its notes and its reason, in one line."""
        notes = f" ({', '.join(self.notes)})" if self.notes else ""
        return f"{self.verdict.value}{notes}{f': {self.reason}' if self.reason else ''}"


def judged_table(probes: list[JudgedProbe]) -> str:
    """One line for each probe: what was asked for, where it stands, what memory has there, the verdict.

    Probes that have gone or come late and that differ only in their times share a line with their number.
    """
    rows = [("probe", "address", "means", "memory", "owner", "verdict")]
    for each, count in _repeated(probes):
        address = "-" if each.address is None else f"{each.address:#x}"
        asked = each.asked if each.kind == "kprobe" else f"{each.asked} {each.kind}"
        verdict = each.verdict_line if count == 1 else f"{each.verdict_line}, {count} times"
        rows.append((asked, address, each.symbol_offset or "-", each.memory_change or "-", each.owner or "-", verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]]).rstrip()
        for row in rows
    )


def _repeated(probes: list[JudgedProbe]) -> list[tuple[JudgedProbe, int]]:
    """The probes to show, each with how many it stands for: the first of those that a loop registers and removes."""
    numbers: Counter[JudgedProbe] = Counter()
    shown: dict[JudgedProbe, JudgedProbe] = {}
    for index, each in enumerate(probes):
        passing = each.verdict in (ProbeVerdict.GONE, ProbeVerdict.LATE)
        # A probe that stands has a line of its own, also where two stand at one place.
        alike = replace(each, notes=(), seconds_since_start=None if passing else index, landing=None)
        numbers[alike] += 1
        shown.setdefault(alike, each)
    return [(first, numbers[alike]) for alike, first in shown.items()]
