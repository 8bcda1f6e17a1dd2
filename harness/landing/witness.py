"""The five witnesses of a landing, each an independent source of one address."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.core.architecture import Probing
from harness.landing.probe import ListedProbe, SiteReport


@dataclass(frozen=True)
class Statement:
    """What one witness says: an address, or None and in `says` the reason why it cannot speak."""

    witness: str
    address: int | None
    says: str = ""


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


def trapped(report: SiteReport, probing: Probing) -> Statement:
    """The instruction pointer that the pre-handler saw, less what this architecture's breakpoint moved it on."""
    if not report.hits:
        return Statement("trapped", None, "not hit")
    return Statement("trapped", report.ip - probing.trap_offset, f"ip {report.ip:#x}")


def outside(window: Window, near: int, probing: Probing) -> Statement:
    """From outside the guest: where memory changed when the probe was registered, and into what."""
    changes = window.changes(probing)
    if not changes:
        return Statement("outside", None, f"nothing changed in {window.size} bytes from {window.start:#x}")
    closest = min(changes, key=lambda address: abs(address - near))
    now = window.during[closest - window.start :]
    for begins, length in probing.patches:
        if now.startswith(begins):
            was = window.before[closest - window.start :][:length]
            return Statement("outside", closest, f"{was.hex()} became {now[:length].hex()}")
    return Statement("outside", None, f"{now[:8].hex()} at {closest:#x} is no probe of this architecture")


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

    def changes(self, probing: Probing) -> list[int]:
        """Addresses of the patches: the first byte of each stretch that registration changed."""
        found = []
        place = 0
        while place < self.size:
            if self.before[place] == self.during[place]:
                place += 1
                continue
            first = place - (self.start + place) % probing.alignment
            found.append(self.start + first)
            patch = self.during[first:]
            place = first + next((length for begins, length in probing.patches if patch.startswith(begins)), 1)
            place = max(place, first + probing.alignment)
        return found
