"""What a guest still tells when its cell has failed: asked for at once, before anything is cleaned up."""

from __future__ import annotations

import gzip
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from harness.core.elf import Elf
from harness.core.errors import DeadlineExceeded, GuestLost, PinpointError
from harness.guest.guest import Guest
from harness.guest.identity import build_id
from harness.landing.layout import Layout
from harness.landing.probe_module import KPROBES_LIST
from harness.landing.target import loaded as targets_in

# 100,000 lines of kallsyms take an emulated guest 10 s beside a kernel build; a guest that hangs is not waited for.
_SECONDS = 60.0

CONSOLE = "console.log"
_SECTIONS = "sections.txt"
# grep reads a file whole, which these demand; a section's name may begin with a dot, and most do.
ASK_SECTIONS = "cd /sys/module && grep -sH '' */sections/* */sections/.[!.]*; :"


def _as_it_is(told: bytes) -> bytes:
    return told


def _packed(told: bytes) -> bytes:
    """Compressed, the same each time: bundles of one guest share the file."""
    return gzip.compress(told, compresslevel=6, mtime=0)


@dataclass(frozen=True)
class _Question:
    file: str
    script: str
    keep: Callable[[bytes], bytes] = _as_it_is


_QUESTIONS = (
    _Question("dmesg.txt", "dmesg"),
    _Question(_SECTIONS, ASK_SECTIONS),
    _Question("modules.txt", "cat /proc/modules"),
    _Question("kprobes.txt", f"cat {KPROBES_LIST}"),
    _Question("kallsyms.gz", "cat /proc/kallsyms", _packed),
)


@dataclass
class Evidence:
    """Files of a bundle by name, and of those that could not be had, why.

    `slide` is in bytes, None where it is not known; `modules` maps each module of ours that was loaded, by its file on
    the host, to the loaded addresses of its sections by name.
    """

    pieces: dict[str, bytes] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    slide: int | None = None
    modules: dict[Path, Mapping[str, int]] = field(default_factory=dict)

    def add(self, name: str, tell: Callable[[], bytes]) -> None:
        """Keep what `tell` gives, or why it gives nothing."""
        try:
            self.pieces[name] = tell()
        except PinpointError as error:
            self.absent[name] = error.what


def gather(guest: Guest, failure: BaseException) -> Evidence:
    """Everything the guest, or QEMU about it, can still tell.

    Never raises a PinpointError: what cannot be had is named with its reason. A guest whose failure was that it does
    not answer is not asked again.
    """
    found = Evidence()
    found.add(CONSOLE, lambda: guest.console.text().encode())
    silent = "the guest does not answer" if isinstance(failure, GuestLost | DeadlineExceeded) else ""
    silent = silent or _ask(guest, found)
    if silent:
        found.absent |= {each.file: silent for each in _QUESTIONS if each.file not in found.pieces}
        _remember(guest, found)
    found.add("registers.txt", lambda: guest.monitor.hmp("info registers -a").encode())
    found.add("events.txt", lambda: _events(guest))
    return found


def _remember(guest: Guest, found: Evidence) -> None:
    """Of a guest that does not answer: what it told before. A slide that nobody asked for is not known."""
    with suppress(PinpointError):
        found.slide = Layout(guest).slide
    found.modules = {guest.image.modules[target.build]: target.sections for target in targets_in(guest)}


def _ask(guest: Guest, found: Evidence) -> str:
    """Put every question up to the first that is not answered; why it is not, empty when all were."""
    deadline = guest.budget(_SECONDS)
    try:
        found.slide = Layout(guest).slide
        for question in _QUESTIONS:
            result = guest.script(question.script, deadline)
            if result.ok:
                found.pieces[question.file] = question.keep(result.out)
            else:
                found.absent[question.file] = result.stderr.strip() or f"exit status {result.rc}"
        found.modules = loaded(guest, found.pieces.get(_SECTIONS, b"").decode(errors="replace"))
    except PinpointError as silence:
        return silence.what
    return ""


def loaded(guest: Guest, listing: str) -> dict[Path, Mapping[str, int]]:
    """Our modules of a listing of sections, `MODULE/sections/NAME:0xADDRESS` a line, by the file they were loaded from.

    Two builds of a module have one name: the loaded one's build-id tells which it is. Raises GuestError.
    """
    sections: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for line in listing.splitlines():
        path, _, address = line.rpartition(":")
        module, _, name = path.split("/", 2) if path.count("/") >= 2 else ("", "", "")
        if module and address.startswith("0x"):
            sections[module][name] = int(address, 16)
    found: dict[Path, Mapping[str, int]] = {}
    for module in sections:
        builds = [file for name, file in guest.image.modules.items() if name.rpartition("/")[2] == module]
        if builds:
            told = build_id(guest.run("cat", f"/sys/module/{module}/notes/.note.gnu.build-id").out)
            found |= {file: sections[module] for file in builds if Elf.kept(file).build_id == told}
    return found


def _events(guest: Guest) -> bytes:
    """QEMU's events so far, each with the seconds since the first."""
    events = guest.monitor.events()
    lines = (f"{event.at - events[0].at:10.3f} {event.name} {dict(event.data)}\n" for event in events)
    return "".join(lines).encode()
