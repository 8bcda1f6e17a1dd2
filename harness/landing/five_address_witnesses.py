"""The five witnesses of a landing: each is an independent source of its address."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.core.architecture import KprobeTraits, PatchPattern
from harness.landing.own_bytes import FEWEST, OwnBytes
from harness.landing.probe_module import ListedProbe, SiteReport

# The number of bytes at an address that the witness table shows.
SHOWN = 8


@dataclass(frozen=True)
class Statement:
    """One witness's address, or None with the reason in `detail`.

    A statement that `contradicts` reports something that is impossible for a landed probe, independent of the other
    witnesses. `code` holds the bytes at its address: from memory while the probe was there, or from the file for the
    `elf` witness.
    """

    witness: str
    address: int | None
    detail: str = ""
    contradicts: bool = False
    code: bytes = b""


def reported_statement(report: SiteReport) -> Statement:
    """The probe module's own `kp.addr` after registration."""
    if report.errno:
        return Statement("reported", None, f"refused, errno {report.errno}")
    return Statement("reported", report.address)


def listed_statement(probes: Sequence[ListedProbe], near: int, registered: int | None = None) -> Statement:
    """The entry of the kprobes list closest to `near`. Its symbol is a reverse look-up, only half independent.

    It contradicts the others when the list does not have as many new entries as probes were `registered`.
    """
    wrong = registered is not None and len(probes) != registered
    count = f"{len(probes)} new entries, {registered} registered" if wrong else ""
    if not probes:
        return Statement("listed", None, count or "the list is empty", contradicts=wrong)
    closest = min(probes, key=lambda probe: abs(probe.address - near))
    shown = " ".join((closest.symbol_offset, *closest.flags))
    return Statement("listed", closest.address, f"{shown}; {count}" if wrong else shown, contradicts=wrong)


def elf_statement(address: int, confirmed_by: Sequence[str] | None = None) -> Statement:
    """The ELF symbol plus the loaded section's address (module) or the slide (vmlinux).

    `confirmed_by` names the other tables of the vmlinux that confirm the symbol; None for a module, whose symbols are
    the assembler's.
    """
    if confirmed_by is None:
        return Statement("elf", address)
    return Statement("elf", address, f"symbol confirmed by {len(confirmed_by)}: {', '.join(confirmed_by) or 'nothing'}")


def hit_address_statement(
    report: SiteReport, kprobes: KprobeTraits, *, optimized: bool = False, flags: Collection[str] = ()
) -> Statement:
    """The instruction pointer in the pre-handler, minus the distance that the architecture's breakpoint moves it.

    `flags` are those with which the kernel lists the probe; some mean another distance.

    For an `optimized` probe the kernel computes that pointer from `kp.addr` (optimized_callback(),
    arch/x86/kernel/kprobes/opt.c, 5.10 to 7.3), so the statement has no address. It contradicts if the pointer is not
    where the breakpoint of an ordinary probe would leave it: a handler cannot know which of the two called it.
    """
    if not report.hits:
        return Statement("trapped", None, "not hit")
    moved = next((kprobes.trap_offset_by_flag[flag] for flag in flags if flag in kprobes.trap_offset_by_flag), None)
    moved = kprobes.trap_offset if moved is None else moved
    if optimized:
        wrong = report.ip - moved != report.address
        detail = f"is not kp.addr + {moved}" if wrong else "is computed from kp.addr"
        return Statement("trapped", None, f"optimized: ip {report.ip:#x} {detail}", contradicts=wrong)
    return Statement("trapped", report.ip - moved, f"ip {report.ip:#x}")


def flags_listed_at(probes: Iterable[ListedProbe], address: int) -> tuple[str, ...]:
    """The flags with which the kernel lists a probe at an address; none if it lists no probe there."""
    return next((probe.flags for probe in probes if probe.address == address), ())


def with_bytes(statement: Statement, window: Window, own: OwnBytes, elsewhere: Mapping[int, bytes]) -> Statement:
    """Add to a statement the bytes at its address: from the ELF for the `elf` witness, from memory for all others.

    `elsewhere` maps addresses outside of the window to the bytes in memory there.
    """
    if statement.address is None:
        return statement
    content = own.code if statement.witness == "elf" else window.during
    place = statement.address - window.start
    inside = content[place : place + SHOWN] if place >= 0 else b""
    return replace(statement, code=inside or elsewhere.get(statement.address, b""))


def qemu_memory_statement(
    window: Window,
    near: int,
    kprobes: KprobeTraits,
    own: OwnBytes | None = None,
    standing: Collection[int] = (),
    listed: Collection[int] | None = None,
) -> Statement:
    """The address at which memory, read from outside the guest, changed when the probe was registered.

    The statement contradicts if nothing changed, if the change is no probe of this architecture, or if memory around it
    differs from the ELF (`own`). Probes at `standing` addresses were there before. A patch at an address that the
    kernel has not `listed` differs from the ELF, too (None: any address is accepted). The statement has no address if
    too few bytes of the ELF can be compared.
    """
    places = window.starts_of_changes(kprobes) or window.address_if_already_probed(near, kprobes, own, standing)
    if not places:
        denial = f"nothing changed in {window.size} bytes from {window.start:#x}"
        return Statement("outside", None, denial, contradicts=True)
    closest = min(places, key=lambda address: abs(address - near))
    length = window.probe_patch_length_at(closest, kprobes)
    was, now = (state[closest - window.start :] for state in (window.before, window.during))
    if not length:
        denial = f"{was[:8].hex()} became {now[:8].hex()}, no probe of this architecture"
        return Statement("outside", closest, denial, contradicts=True)
    became = f"{was[:length].hex()} became {now[:length].hex()}"
    if own is None:
        return Statement("outside", closest, became)
    wrong = window.describe_unexplained_bytes(own, kprobes, standing, listed)
    if wrong:
        return Statement("outside", closest, f"{became}; {wrong}", contradicts=True)
    if own.comparable_count < FEWEST:
        return Statement("outside", None, f"{became}, but only {own.comparable_count} bytes of the ELF can be compared")
    masked = f", {len(own.masked_offsets)} masked" if own.masked_offsets else ""
    return Statement("outside", closest, f"{became}; {own.comparable_count} bytes around are the ELF's{masked}")


def _is_cut(patch: PatchPattern, seen: bytes) -> bool:
    """True if some bytes at the end of a window are the first of a patch."""
    return 0 < len(seen) < len(patch.value) and patch.value.startswith(seen)


@dataclass(frozen=True)
class Window:
    """Guest memory around a site, read through QEMU before, during and after the registration of a probe."""

    start: int
    before: bytes
    during: bytes
    after: bytes = b""

    @property
    def size(self) -> int:
        """The length of the window, in bytes."""
        return len(self.before)

    @property
    def restored(self) -> bool:
        """True if the bytes after removal equal those before registration."""
        return self.after == self.before

    def starts_of_changes(self, kprobes: KprobeTraits) -> list[int]:
        """The start of each run of bytes that registration changed, rounded down to the alignment of instructions."""
        found = []
        place = 0
        while place < self.size:
            if self.before[place] == self.during[place]:
                place += 1
                continue
            first = place - (self.start + place) % kprobes.instruction_alignment
            first = self._start_of_patch_with_unchanged_bytes(first, kprobes)
            first = self._start_of_retargeted_call(first, kprobes)
            found.append(self.start + first)
            length = self.probe_patch_length_at(self.start + first, kprobes) or 1
            place = max(place, first + length, first + kprobes.instruction_alignment)
        return found

    def _start_of_patch_with_unchanged_bytes(self, place: int, kprobes: KprobeTraits) -> int:
        """The offset of a patch whose first bytes did not change, if its first change is at `place`; else `place`.

        On LoongArch ftrace writes its call after an instruction that it has written at boot.
        """
        for patch in kprobes.patches:
            first = place - patch.unchanged
            if patch.unchanged and first >= 0 and patch.matches(self.during[first:]):
                return first
        return place

    def _start_of_retargeted_call(self, place: int, kprobes: KprobeTraits) -> int:
        """The offset of a call that was there before, if a change inside of it gave it another target.

        ftrace's call for a live patch becomes one for the live patch and a probe (arch_ftrace_update_trampoline()).
        """
        if self.probe_patch_length_at(self.start + place, kprobes):
            return place
        reach = max(patch.size for patch in kprobes.patches)
        for first in range(max(0, place - reach + 1), place):
            states = self.before[first:], self.during[first:]
            if any(first + patch.size > place and all(map(patch.matches, states)) for patch in kprobes.patches):
                return first
        return place

    def probe_patch_length_at(self, address: int, kprobes: KprobeTraits) -> int:
        """The length of the probe's patch at an address; 0 if the bytes there are no patch of a probe.

        The window may end inside of a patch: instructions of four bytes at every even address, as on RISC-V.
        """
        now = self.during[address - self.start :]
        return next((patch.size for patch in kprobes.patches if patch.matches(now) or _is_cut(patch, now)), 0)

    def address_if_already_probed(
        self, address: int, kprobes: KprobeTraits, own: OwnBytes | None, standing: Collection[int]
    ) -> list[int]:
        """The address, if another probe was there before and memory shows it, so that nothing had to change."""
        here = address - self.start
        if own is None or address not in standing or not 0 <= here < len(own.code):
            return []
        return [address] if self.probe_patch_length_at(address, kprobes) and self.during[here] != own.code[here] else []

    def describe_unexplained_bytes(
        self,
        own: OwnBytes,
        kprobes: KprobeTraits,
        standing: Collection[int] = (),
        listed: Collection[int] | None = None,
    ) -> str:
        """Describe the first place where memory is neither the ELF's nor a probe's patch; "" if there is none.

        A patch counts as a probe's only at the address of a `listed` probe (None: at any address).
        """
        longest = max(patch.size for patch in kprobes.patches)
        others = {address - self.start + byte for address in standing for byte in range(longest)}
        put = {
            address - self.start + byte
            for address in self.starts_of_changes(kprobes)
            if listed is None or address in listed
            for byte in range(self.probe_patch_length_at(address, kprobes))
        }
        states = (("before", self.before, others), ("with", self.during, others | put), ("after", self.after, others))
        for when, memory, probed in states:
            strays = own.differing_offsets(memory, probed)
            if strays:
                first = slice(strays[0], strays[0] + SHOWN)
                where = f"at {self.start + strays[0]:#x} the ELF has {own.code[first].hex()}"
                return f"{where}, memory {memory[first].hex()} {when} the probe"
        return ""
