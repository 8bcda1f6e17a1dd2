"""The five witnesses of a landing, each an independent source of one address."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.core.architecture import KprobeTraits
from harness.landing.own_bytes import FEWEST, OwnBytes
from harness.landing.probe_module import ListedProbe, SiteReport

# Bytes of a place that a table shows.
SHOWN = 8


@dataclass(frozen=True)
class Statement:
    """One witness's address, or None and in `detail` the reason why it has none.

    A statement that `contradicts` reports what is impossible for a landed probe, whatever the other witnesses report.
    `code` are the bytes at its address, as memory had them while the probe was there, or, of the ELF, as the file has
    them.
    """

    witness: str
    address: int | None
    detail: str = ""
    contradicts: bool = False
    code: bytes = b""


def reported(report: SiteReport) -> Statement:
    """The probe module's own `kp.addr` after registration."""
    if report.errno:
        return Statement("reported", None, f"refused, errno {report.errno}")
    return Statement("reported", report.address)


def listed(probes: Sequence[ListedProbe], near: int) -> Statement:
    """The entry of the kprobes list closest to `near`. Its symbol is a reverse look-up, only half independent."""
    if not probes:
        return Statement("listed", None, "the list is empty")
    closest = min(probes, key=lambda probe: abs(probe.address - near))
    return Statement("listed", closest.address, " ".join((closest.meaning, *closest.flags)))


def elf(address: int) -> Statement:
    """The ELF symbol plus the loaded section's address (module) or the slide (vmlinux)."""
    return Statement("elf", address)


def trapped(report: SiteReport, kprobes: KprobeTraits) -> Statement:
    """The instruction pointer that the pre-handler saw, less what this architecture's breakpoint moved it on."""
    if not report.hits:
        return Statement("trapped", None, "not hit")
    return Statement("trapped", report.ip - kprobes.trap_offset, f"ip {report.ip:#x}")


def with_bytes(statement: Statement, window: Window, own: OwnBytes, elsewhere: Mapping[int, bytes]) -> Statement:
    """A statement and the bytes at its address: the ELF's own for the `elf` witness, memory's for all others.

    `elsewhere` is what memory has at addresses outside of the window.
    """
    if statement.address is None:
        return statement
    content = own.code if statement.witness == "elf" else window.during
    place = statement.address - window.start
    inside = content[place : place + SHOWN] if place >= 0 else b""
    return replace(statement, code=inside or elsewhere.get(statement.address, b""))


def outside(
    window: Window, near: int, kprobes: KprobeTraits, own: OwnBytes | None = None, standing: Collection[int] = ()
) -> Statement:
    """From outside the guest: where memory changed when the probe was registered, and into what.

    It contradicts the others when nothing changed, when the change is no probe of this architecture, and when other
    memory is not what the ELF (`own`) has. Probes at `standing` addresses were there before. It has no address where
    too little of the ELF can be compared.
    """
    places = window.changes(kprobes) or window.stood(near, kprobes, own, standing)
    if not places:
        denial = f"nothing changed in {window.size} bytes from {window.start:#x}"
        return Statement("outside", None, denial, contradicts=True)
    closest = min(places, key=lambda address: abs(address - near))
    length = window.patch_at(closest, kprobes)
    was, now = (state[closest - window.start :] for state in (window.before, window.during))
    if not length:
        denial = f"{was[:8].hex()} became {now[:8].hex()}, no probe of this architecture"
        return Statement("outside", closest, denial, contradicts=True)
    became = f"{was[:length].hex()} became {now[:length].hex()}"
    if own is None:
        return Statement("outside", closest, became)
    wrong = window.contradiction(own, kprobes, standing)
    if wrong:
        return Statement("outside", closest, f"{became}; {wrong}", contradicts=True)
    if own.compared < FEWEST:
        return Statement("outside", None, f"{became}, but only {own.compared} bytes of the ELF can be compared")
    masked = f", {len(own.masked)} masked" if own.masked else ""
    return Statement("outside", closest, f"{became}; {own.compared} bytes around are the ELF's{masked}")


@dataclass(frozen=True)
class Window:
    """Guest memory around a site, read through QEMU before, during and after a probe's life."""

    start: int
    before: bytes
    during: bytes
    after: bytes = b""

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return len(self.before)

    @property
    def restored(self) -> bool:
        """True when the bytes after removal are those before registration."""
        return self.after == self.before

    def changes(self, kprobes: KprobeTraits) -> list[int]:
        """Addresses of the patches: the first byte of each stretch that registration changed."""
        found = []
        place = 0
        while place < self.size:
            if self.before[place] == self.during[place]:
                place += 1
                continue
            first = place - (self.start + place) % kprobes.alignment
            found.append(self.start + first)
            length = self.patch_at(self.start + first, kprobes) or 1
            place = max(place, first + length, first + kprobes.alignment)
        return found

    def patch_at(self, address: int, kprobes: KprobeTraits) -> int:
        """The length of what the kernel put at an address for a probe, 0 when that is no probe's."""
        now = self.during[address - self.start :]
        return next((length for begins, length in kprobes.patches if now.startswith(begins)), 0)

    def stood(self, address: int, kprobes: KprobeTraits, own: OwnBytes | None, standing: Collection[int]) -> list[int]:
        """The address, if another probe stood there before and memory shows it: then nothing had to change."""
        here = address - self.start
        if own is None or address not in standing or not 0 <= here < len(own.code):
            return []
        return [address] if self.patch_at(address, kprobes) and self.during[here] != own.code[here] else []

    def contradiction(self, own: OwnBytes, kprobes: KprobeTraits, standing: Collection[int] = ()) -> str:
        """Where memory is neither what the ELF has nor a probe's patch, with both byte strings; "" if nowhere."""
        longest = max(length for _, length in kprobes.patches)
        others = {address - self.start + byte for address in standing for byte in range(longest)}
        put = {
            address - self.start + byte
            for address in self.changes(kprobes)
            for byte in range(self.patch_at(address, kprobes))
        }
        states = (("before", self.before, others), ("with", self.during, others | put), ("after", self.after, others))
        for when, memory, probed in states:
            strays = own.strays(memory, probed)
            if strays:
                first = slice(strays[0], strays[0] + SHOWN)
                where = f"at {self.start + strays[0]:#x} the ELF has {own.code[first].hex()}"
                return f"{where}, memory {memory[first].hex()} {when} the probe"
        return ""
