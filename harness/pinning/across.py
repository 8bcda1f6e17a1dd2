"""A kprobe whose target is removed under it and loaded again; and one registered while the target comes and goes."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from harness.guest.guest import Guest
from harness.landing import probe_module
from harness.landing.landing import Missed
from harness.landing.probe_module import ListedProbe
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site
from harness.landing.target import Target
from harness.pinning.mutants import LoaderMutant

# How often the target's function is called in its first life and in its second; different, so that the hits show which.
_BEFORE, _AFTER = 2, 3
_SHAPE = "leaf"
_RACE_SECONDS = 300.0
# So many successes and so many refusals are a race.
_OFTEN = 5


@dataclass(frozen=True)
class Crossing:
    """What became of a probe: how the kernel listed it without its target, and its hits in all.

    `moved` is true if the target was reloaded at another address.
    """

    listed: tuple[ListedProbe, ...]
    hits: int
    moved: bool

    def prove(self) -> None:
        """GONE in the list, silent ever after. Raises Missed."""
        if [probe.flags.count("[GONE]") for probe in self.listed] != [1]:
            raise Missed(f"without its target the probe is listed as {self.listed}")
        if self.hits != _BEFORE:
            raise Missed(f"hit {self.hits} times, its target's first life ran {_BEFORE} times")


def settle(target: Target, site: Site) -> None:
    """Once through a probe's life and the target's, so that what the kernel allocates once has its place.

    A page of instruction slots goes into the very hole that the target leaves, on parisc; after that the target comes
    back to where it was.
    """
    probe_module.load(target.guest, [site.spec])
    target.unload()
    target.load()
    probe_module.unload(target.guest)


def cross(kprobes: Kprobes, target: Target, site: Site, mutant: LoaderMutant) -> Crossing:
    """Probe a site, remove the target, load it again, call it in both lives, unregister.

    Raises Missed when anything is left then.
    """
    address = kprobes.layout.address(site)
    standing = probe_module.standing(target.guest)
    with kprobes.on(site) as probes:
        target.call(_SHAPE, _BEFORE)
        target.unload()
        listed = probe_module.look(target.guest).beyond(standing)
        target.load()
        if mutant.probes_again:
            probe_module.unload(target.guest)
            probe_module.load(target.guest, [site.spec])
        target.call(_SHAPE, _AFTER)
    probes.prove_gone()
    return Crossing(listed, probes.reports[0].hits, moved=kprobes.layout.address(site) != address)


def race(guest: Guest, module: str, spec: str, rounds: int) -> Counter[int]:
    """Register a probe while a module is loaded and removed concurrently; returns the count of each errno.

    Until success and refusal each came often enough, or at most so many times; nothing keeps the two in step. Raises
    GuestError when the module cannot be loaded, or does not go in the end: a removal that meets a registration is
    refused for that moment (EWOULDBLOCK), and is tried again.
    """
    target, mine = guest.ship(module), guest.ship(probe_module.MODULE)
    report = f"/sys/kernel/debug/{probe_module.MODULE}/report"
    churn = f"while [ -e /tmp/racing ]; do insmod {target} || exit; until rmmod {module} 2>/dev/null; do :; done; done"
    goes_on = f"[ $((round += 1)) -le {rounds} ] && {{ [ $met -lt {_OFTEN} ] || [ $refused -lt {_OFTEN} ]; }}"
    register = f"insmod {mine} site={spec} && told=$(cat {report}) && rmmod {probe_module.MODULE} || exit; echo $told"
    count = "case $told in *' errno=0 '*) met=$((met + 1));; *) refused=$((refused + 1));; esac"
    told = guest.script(
        f"touch /tmp/racing; ( {churn} ) & "
        f"( round=0 met=0 refused=0; while {goes_on}; do {register}; {count}; done ); "
        "status=$?; rm -f /tmp/racing; wait $! && exit $status",
        guest.budget(_RACE_SECONDS),
    ).check()
    return Counter(report.errno for report in probe_module.parse_report(told.stdout))


def expect_errnos(seen: Counter[int], allowed: Collection[int]) -> None:
    """Only these errnos, a success and a refusal at least once each. Raises Missed: without both there was no race."""
    strange = set(seen) - set(allowed)
    if strange:
        raise Missed(f"refused with {', '.join(errno.errorcode.get(each, str(each)) for each in strange)}")
    if not seen[0] or len(seen) < 2:
        raise Missed(f"registration and removal never met: {dict(seen)}")
