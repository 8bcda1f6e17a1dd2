"""What a guest shows at one moment: every probe that the kernel lists, every registration, its modules."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.landing import probe_module
from harness.landing.probe_module import ListedProbe
from harness.landing.verify import registrations, traced_functions
from harness.landing.verify.loaded_modules import LoadedModule
from harness.landing.verify.registrations import Records
from harness.landing.verify.traced_functions import TracedFunction

_KPROBES = "/sys/kernel/debug/kprobes/list"
_MODULES = "/proc/modules"
# One program reads all files, because each that is started costs an emulated guest 20 ms. Some guests lack some files.
_OPTIONAL = " ".join((traced_functions.FILE, registrations.FILE, registrations.UPROBES))
_QUESTION = f"""files='{_KPROBES} {_MODULES}'
for file in {_OPTIONAL}; do [ ! -e $file ] || files="$files $file"; done
grep -H '' $files"""


@dataclass(frozen=True)
class GuestLists:
    """What the guest lists at one moment; `records` is empty without `pinpoint_watch`."""

    kprobes: tuple[ListedProbe, ...]
    traced_functions: tuple[TracedFunction, ...]
    records: Records
    modules_listing: str

    @property
    def settling_state(self) -> tuple[object, ...]:
        """What must stay the same for the guest to have settled."""
        return (
            self.kprobes,
            self.traced_functions,
            self.records.registrations,
            self.records.uprobe_registrations,
            tuple(sorted(self.module_names)),
        )

    @property
    def module_names(self) -> list[str]:
        """The loaded modules."""
        return [line.split()[0] for line in self.modules_listing.splitlines() if line.strip()]


def read_lists(guest: Guest) -> GuestLists:
    """Read all lists in one round trip. Raises GuestError when one of them cannot be read."""
    result = guest.run_script(_QUESTION)
    # grep returns 1 if no file has a line, and more if it could not read one.
    if result.rc > 1 or result.stderr:
        reason = " ".join(result.stderr.split())
        raise GuestError(f"its lists of probes cannot be read: {reason}", where=guest.name)
    texts: defaultdict[str, list[str]] = defaultdict(list)
    for line in result.stdout.splitlines(keepends=True):
        path, _, text = line.partition(":")
        texts[path].append(text)
    listing = "".join(texts[_KPROBES])
    try:
        kprobes = probe_module.parse_kprobe_list(listing)
    except (ValueError, IndexError):
        raise GuestError(f"not a list of kprobes: {listing[:80]!r}", where=guest.name) from None
    traced = traced_functions.parse_enabled_functions("".join(texts[traced_functions.FILE]))
    recorded = "".join(texts[registrations.FILE] + texts[registrations.UPROBES])
    records = registrations.parse_registrations(recorded, guest.architecture.host_errno)
    return GuestLists(kprobes, traced, records, "".join(texts[_MODULES]))


@dataclass(frozen=True)
class ListsAndModules:
    """The lists, and the modules with their files."""

    lists: GuestLists
    modules: dict[str, LoadedModule]
