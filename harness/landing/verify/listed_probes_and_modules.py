"""What a guest shows at one moment: every probe that the kernel lists, every registration, its modules."""

from __future__ import annotations

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
_CUT = "--pinpoint-cut--"


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
    steps = (
        f"cat {_KPROBES} || exit",
        f"[ ! -e {traced_functions.FILE} ] || cat {traced_functions.FILE}",
        f"[ ! -e {registrations.FILE} ] || cat {registrations.FILE} {registrations.UPROBES}",
        "cat /proc/modules",
    )
    parts = guest.run_script(f"; echo {_CUT}; ".join(steps)).check().stdout.split(f"{_CUT}\n")
    if len(parts) != len(steps):
        raise GuestError("its lists of probes cannot be read", where=guest.name)
    try:
        kprobes = probe_module.parse_kprobe_list(parts[0])
    except (ValueError, IndexError):
        raise GuestError(f"not a list of kprobes: {parts[0][:80]!r}", where=guest.name) from None
    traced = traced_functions.parse_enabled_functions(parts[1])
    return GuestLists(kprobes, traced, registrations.parse_registrations(parts[2]), parts[3])


@dataclass(frozen=True)
class Moment:
    """The lists, and the modules with their files."""

    lists: GuestLists
    modules: dict[str, LoadedModule]
