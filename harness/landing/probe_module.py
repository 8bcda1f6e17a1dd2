"""Loads the probe module with sites, reads its report on each, and unloads it."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.guest.result import parsing_guest_text

MODULE = "pinpoint_probe"
KPROBES_LIST = "/sys/kernel/debug/kprobes/list"
SEPARATOR = "--pinpoint-cut--"
# The flag of a probe that the kernel has turned into a jump.
OPTIMIZED = "[OPTIMIZED]"
# The list as the shell prints it: a byte in each system call, but to start `cat` takes 8 ms of an emulated CPU, and
# without the probe module the list is empty or has a few lines.
_SHORT_LIST = f'while IFS= read -r line; do echo "$line"; done <{KPROBES_LIST}'


@dataclass(frozen=True)
class ProbeModuleRequest:
    """A probe module to load; `specs` are sites in its format (probe/spec.c, byhand/base_index_spec.c in probes/)."""

    specs: Sequence[str]
    parameters: Sequence[str] = ()
    module: str = MODULE


@dataclass(frozen=True)
class SiteReport:
    """The probe module's report on one site.

    `errno` is positive, 0 for a registered probe. `address` is `kp.addr`, 0 when refused. `hits` counts the runs of the
    pre-handler. `ip` is the instruction pointer at the last hit as the architecture has it, 0 before the first hit.
    `missed` counts the hits for which the kernel ran no handler. For a kretprobe `return_count` counts the returns, and
    `returned_value` is the return value of the last one.
    """

    spec: str
    errno: int
    address: int
    hits: int
    ip: int
    missed: int = 0
    return_count: int = 0
    returned_value: int = 0


@dataclass(frozen=True)
class ListedProbe:
    """One line of `/sys/kernel/debug/kprobes/list`.

    `symbol_offset` is the kernel's reverse look-up of the address. Flags have the form `[OPTIMIZED]`. `kind` is `k` for
    a kprobe, `r` for a kretprobe.
    """

    address: int
    symbol_offset: str
    flags: tuple[str, ...]
    kind: str = "k"

    @property
    def without_optimization(self) -> ListedProbe:
        """The line without the flag that the kernel sets and clears by itself.

        It does so also when a program writes `debug.kprobes-optimization`, as staprun does.
        """
        return replace(self, flags=tuple(flag for flag in self.flags if flag != OPTIMIZED))


@dataclass(frozen=True)
class ProbeView:
    """The probe module's report and the kernel's list, read in one round trip.

    `listed_before_load` is the list from just before the module was loaded; only `load_probe_module` fills it.
    """

    reports: tuple[SiteReport, ...]
    listed_probes: tuple[ListedProbe, ...]
    listed_before_load: tuple[ListedProbe, ...] = ()

    def newly_listed(self, standing: Collection[ListedProbe]) -> tuple[ListedProbe, ...]:
        """The listed probes without one for each in `standing`; parisc lists a probe of its own from boot on."""
        return tuple(without_one_for_each(self.listed_probes, standing))


def without_one_for_each(listed: Iterable[ListedProbe], standing: Iterable[ListedProbe]) -> list[ListedProbe]:
    """Return the listed probes without one that equals each of `standing`: more may be at the same address.

    A probe that was optimized since, or is no longer, is the same one. The kernel lists the newest probe of an address
    first (add_new_kprobe(), kernel/kprobes.c, 6.1).
    """
    left, others = Counter(each.without_optimization for each in standing), []
    for each in reversed([*listed]):
        left[each.without_optimization] -= 1
        if left[each.without_optimization] < 0:
            others.append(each)
    return others[::-1]


def read_kprobe_list(guest: Guest) -> tuple[ListedProbe, ...]:
    """The kernel's list of kprobes now."""
    return parse_kprobe_list(guest.read_text(KPROBES_LIST))


def load_probe_module(
    guest: Guest, specs: Sequence[str], parameters: Sequence[str] = (), module: str = MODULE
) -> ProbeView:
    """Load a probe module with these sites and read its report. One round trip.

    The parameters are set before the sites. Raises GuestError if the module cannot be loaded. A refused site raises
    nothing; the report has its errno.
    """
    words = shlex.join(["insmod", guest.copy_module(module), *parameters, f"site={','.join(specs)}"])
    return _view(guest, f"{_SHORT_LIST} && echo {SEPARATOR} && {words} && {_look(module)}")


def read_view(guest: Guest, module: str = MODULE) -> ProbeView:
    """Read the report and the list; the module stays loaded. One round trip."""
    return _view(guest, _look(module))


def unload_probe_module(guest: Guest, module: str = MODULE) -> ProbeView:
    """Read the last report, unload the module, and read the list after that. One round trip."""
    return _view(guest, f"cat {_report(module)} && rmmod {module} && echo {SEPARATOR} && {_SHORT_LIST}")


def _look(module: str) -> str:
    return f"cat {_report(module)} - {KPROBES_LIST} <<.\n{SEPARATOR}\n.\n"


def _report(module: str) -> str:
    return f"/sys/kernel/debug/{module}/report"


def _view(guest: Guest, script: str) -> ProbeView:
    result = guest.run_script(script, in_place=True)
    if result.rc != 0:
        raise GuestError(f"the probe module failed: {result.stderr.strip()}", where=guest.name)
    with parsing_guest_text("the probe module's report"):
        *before, reports, listing = result.stdout.split(f"{SEPARATOR}\n")
    reports_of_sites = parse_report(reports, guest.architecture.host_errno)
    return ProbeView(reports_of_sites, parse_kprobe_list(listing), parse_kprobe_list("".join(before)))


@parsing_guest_text("the probe module's report")
def parse_report(text: str, host_errno: Callable[[int], int] = int) -> tuple[SiteReport, ...]:
    """Parse the lines of a report, which have words `key=value` and are in the order of the sites.

    `host_errno` converts the kernel's number of an error to the host's (`Architecture.host_errno`).
    """
    reports = []
    for line in text.splitlines():
        fields = dict(word.split("=", 1) for word in line.split())
        reports.append(
            SiteReport(
                spec=fields["spec"],
                errno=host_errno(int(fields["errno"])),
                address=int(fields["address"], 16),
                hits=int(fields["hits"]),
                ip=int(fields["ip"], 16),
                missed=int(fields["missed"]),
                return_count=int(fields.get("returns", "0")),
                returned_value=int(fields.get("value", "0"), 16),
            )
        )
    return tuple(reports)


_FLAG = re.compile(r"\[[A-Z]+\]")


@parsing_guest_text("the kernel's list of kprobes")
def parse_kprobe_list(text: str) -> tuple[ListedProbe, ...]:
    """Parse lines `ADDR  k|r  sym+0xoff  mod [FLAG]...`; flags have no space between them.

    See report_probe() in kernel/kprobes.c, 6.1.
    """
    probes = []
    for line in text.splitlines():
        words = _FLAG.sub(" ", line).split()
        probes.append(ListedProbe(int(words[0], 16), " ".join(words[2:]), tuple(_FLAG.findall(line)), words[1]))
    return tuple(probes)
