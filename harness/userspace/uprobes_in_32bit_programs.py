"""Uprobes in 32-bit programs of a 64-bit kernel."""

from __future__ import annotations

from harness.core.errors import GuestError
from harness.userspace.runner import Runner
from harness.userspace.uprobes_fixture import Uprobes
from harness.userspace.user_file import UserFile

_BOUNDARIES = 4


def prove_32bit_uprobes(uprobes: Uprobes, process: Runner, file: UserFile, symbol: str, way: str, times: int) -> None:
    """Probe a function's entry, and inner boundaries where its code can be decoded, and call it `times`.

    Raises Missed unless the probes land, or, where the architecture's kernel refuses them, unless the errno is the
    documented one, no byte changed and the kernel lists nothing.
    """
    narrow = uprobes.guest.architecture.compat_programs
    if narrow is None:
        raise GuestError("its architecture has no 32-bit programs", where=uprobes.guest.name)
    site = file.site(symbol)
    sites = file.once_per_call_sites(site, _BOUNDARIES) if narrow.decoder else [site]
    with uprobes.on(file, sites, way).record_pages_before(process) as run:
        process.call(symbol, times)
        run.record_pages(process, ask="")
    if narrow.uprobe_errno:
        run.prove_refused(process, narrow.uprobe_errno)
    else:
        run.prove_landings(times)
    run.prove_restored()
