"""The evidence of a failed cell, read from its guest at the failure, before anything is cleaned up."""

from __future__ import annotations

import gzip
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from harness.core.elf import Elf
from harness.core.errors import DeadlineExceeded, GuestLost, GuestNotRun, PinpointError
from harness.guest.booted_kernel_check import build_id
from harness.guest.guest import Guest
from harness.landing.layout import Layout
from harness.landing.probe_module import KPROBES_LIST
from harness.landing.target import loaded_targets as targets_in

# An emulated guest takes 10 s for 100,000 lines of kallsyms while a kernel is built. A guest that hangs is not queried.
_SECONDS = 60.0

CONSOLE = "console.log"
_SECTIONS = "sections.txt"
# grep reads a file in one read, as these files require; most section names begin with a dot.
ASK_SECTIONS = "cd /sys/module && grep -sH '' */sections/* */sections/.[!.]*; :"


def _unchanged(output: bytes) -> bytes:
    return output


def _packed(output: bytes) -> bytes:
    """Compress reproducibly, so that bundles of one guest share the file."""
    return gzip.compress(output, compresslevel=6, mtime=0)


@dataclass(frozen=True)
class _Query:
    file: str
    script: str
    keep: Callable[[bytes], bytes] = _unchanged


_QUERIES = (
    _Query("dmesg.txt", "dmesg"),
    _Query(_SECTIONS, ASK_SECTIONS),
    _Query("modules.txt", "cat /proc/modules"),
    _Query("kprobes.txt", f"cat {KPROBES_LIST}"),
    _Query("kallsyms.gz", "cat /proc/kallsyms", _packed),
)


@dataclass
class Evidence:
    """Files of a bundle by name, and why the others are absent.

    `slide` is in bytes, None when unknown. `module_section_addresses` maps the host file of each loaded module of ours
    to the load addresses of its sections, by section name.
    """

    file_contents: dict[str, bytes] = field(default_factory=dict)
    absence_reasons: dict[str, str] = field(default_factory=dict)
    slide: int | None = None
    module_section_addresses: dict[Path, Mapping[str, int]] = field(default_factory=dict)

    def add_content_or_error(self, name: str, read: Callable[[], bytes]) -> None:
        """Keep what `read` returns, or the error that it raises."""
        try:
            self.file_contents[name] = read()
        except PinpointError as error:
            self.absence_reasons[name] = error.what


def gather_evidence(guest: Guest, failure: BaseException) -> Evidence:
    """Gather everything that can be read from the guest and from its QEMU.

    Never raises a PinpointError: a file that cannot be read is recorded with the reason. A guest that failed to answer,
    or to end a request in time, is not queried again.
    """
    found = Evidence()
    found.add_content_or_error(CONSOLE, lambda: guest.console.text().encode())
    silent = reason_not_to_query(failure) or _query(guest, found)
    if silent:
        found.absence_reasons |= {each.file: silent for each in _QUERIES if each.file not in found.file_contents}
        _remember(guest, found)
    found.add_content_or_error("registers.txt", lambda: guest.monitor.hmp("info registers -a").encode())
    found.add_content_or_error("events.txt", lambda: _events(guest))
    return found


def reason_not_to_query(failure: BaseException) -> str:
    """Return why a guest is not queried after this failure; empty if it is queried."""
    match failure:
        case GuestLost():
            return "the guest does not answer"
        case DeadlineExceeded() | GuestNotRun():
            return "something did not end in time, so the guest was not queried; it may still answer"
    return ""


def _remember(guest: Guest, found: Evidence) -> None:
    """Add what was read before the guest stopped answering; the slide is unknown unless it was read."""
    with suppress(PinpointError):
        found.slide = Layout(guest).slide
    found.module_section_addresses = {guest.image.module(target.build): target.sections for target in targets_in(guest)}


def _query(guest: Guest, found: Evidence) -> str:
    """Run the queries up to the first without an answer; return why there was none, empty when all were answered."""
    deadline = guest.scaled_deadline(_SECONDS)
    try:
        found.slide = Layout(guest).slide
        for query in _QUERIES:
            result = guest.run_script(query.script, deadline)
            if result.ok:
                found.file_contents[query.file] = query.keep(result.out)
            else:
                found.absence_reasons[query.file] = result.stderr.strip() or f"exit status {result.rc}"
        found.module_section_addresses = sections_by_module_file(
            guest, found.file_contents.get(_SECTIONS, b"").decode(errors="replace")
        )
    except PinpointError as silence:
        return silence.what
    return ""


def sections_by_module_file(guest: Guest, listing: str) -> dict[Path, Mapping[str, int]]:
    """Return our modules in a listing of sections (`MODULE/sections/NAME:0xADDRESS`), by their file on the host.

    Two builds of a module have the same name; the build-id of the loaded one decides. Raises GuestError.
    """
    sections: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for line in listing.splitlines():
        path, _, address = line.rpartition(":")
        module, _, name = path.split("/", 2) if path.count("/") >= 2 else ("", "", "")
        if module and address.startswith("0x"):
            sections[module][name] = int(address, 16)
    found: dict[Path, Mapping[str, int]] = {}
    for module in sections:
        builds = [file for name, file in guest.image.all_modules.items() if name.rpartition("/")[2] == module]
        if builds:
            loaded_id = build_id(guest.run("cat", f"/sys/module/{module}/notes/.note.gnu.build-id").out)
            found |= {file: sections[module] for file in builds if Elf.read_cached(file).build_id == loaded_id}
    return found


def _events(guest: Guest) -> bytes:
    """List QEMU's events so far, each with the seconds since the first."""
    events = guest.monitor.events()
    lines = (
        f"{event.monotonic_time - events[0].monotonic_time:10.3f} {event.name} {dict(event.data)}\n" for event in events
    )
    return "".join(lines).encode()
