"""Kprobes on a module that is removed and loaded again: before, during and after the registration."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.landing import probe_module
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.probe_module import OPTIMIZED, ListedProbe
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site
from harness.landing.target import Target
from harness.pinning.loader import LoaderResult
from harness.pinning.loader_fixture import Loaders, order_for_site
from harness.pinning.mutants import LoaderMutant

# Calls of the target's function in its first and second instance. They differ, so that hits show which was probed.
_BEFORE, _AFTER = 2, 3
_SHAPE = "leaf"
_RACE_SECONDS = 300.0
# The optimizer waits for an RCU-tasks grace period (kprobe_optimizer(), kernel/kprobes.c, 6.1).
_JUMP_SECONDS = 30.0
# The number of successes, and of refusals, after which the race ends.
_OFTEN = 5
# The calls of the target's function under each registered probe of the race.
RACE_CALLS = 3
_RELOADS = 8
_FENCE_SECONDS = 60.0


@dataclass(frozen=True)
class AcrossRemovalResult:
    """The result for a probe across a removal of its target.

    `listed_while_removed` is what the kernel listed while the target was gone, `hits` the number of hits in all.
    `target_moved` is true if the target was reloaded at another address.
    """

    listed_while_removed: tuple[ListedProbe, ...]
    hits: int
    target_moved: bool

    def prove(self) -> None:
        """Check that the probe was listed as GONE and not hit after that. Raises Missed."""
        if [probe.flags.count("[GONE]") for probe in self.listed_while_removed] != [1]:
            rows = [
                f"{probe.address:x} {' '.join(probe.flags) or 'without a flag'}" for probe in self.listed_while_removed
            ]
            listed = ", ".join(rows) or "nothing"
            raise Missed(f"after the removal of its target the kernel lists {listed}, not one probe as [GONE]")
        if self.hits != _BEFORE:
            raise Missed(f"hit {self.hits} times, its target's first instance was called {_BEFORE} times")


def warm_up_allocations(layout: Layout, target: Target, site: Site) -> None:
    """Remove and load the target under a probe on the site, until it is loaded again at the address that it had.

    Where modules share a region with all of vmalloc (parisc), another allocation can take the hole that the target
    leaves: the first page of instruction slots, or the buffer of a terminal (n_tty_open(), drivers/tty/n_tty.c). The
    same steps then leave the target in its place. Raises GuestError if the target never returns.
    """
    for _ in range(_RELOADS):
        address = layout.probe_address(site)
        probe_module.load_probe_module(target.guest, [site.spec])
        target.unload()
        target.load()
        probe_module.unload_probe_module(target.guest)
        if layout.probe_address(site) == address:
            return
    raise _moved_each_time(target)


def reload_at_same_address(layout: Layout, target: Target, site: Site) -> None:
    """Remove the target and load it again, until the site is at the address that it had.

    The kernel frees the memory of a module lazily (vmap_lazy_nr, mm/vmalloc.c), so that the next instance can be at
    another address (seen on 5.10). Raises GuestError if it never returns.
    """
    address = layout.probe_address(site)
    for _ in range(_RELOADS):
        target.unload()
        target.load()
        if layout.probe_address(site) == address:
            return
    raise _moved_each_time(target)


def _moved_each_time(target: Target) -> GuestError:
    return GuestError(f"{target.module} is loaded at another address each time", where=target.guest.name)


def probe_across_removal(kprobes: Kprobes, target: Target, site: Site, mutant: LoaderMutant) -> AcrossRemovalResult:
    """Probe a site, remove the target, load it again, call both instances, and unregister.

    Raises Missed if anything is left after that.
    """
    address = kprobes.layout.probe_address(site)
    standing = probe_module.read_kprobe_list(target.guest)
    with kprobes.on(site) as probes:
        target.call_for_checksum(_SHAPE, _BEFORE)
        target.unload()
        listed = probe_module.read_view(target.guest).newly_listed(standing)
        target.load()
        if mutant.probes_reloaded_target:
            probe_module.unload_probe_module(target.guest)
            probe_module.load_probe_module(target.guest, [site.spec])
        target.call_for_checksum(_SHAPE, _AFTER)
    probes.prove_gone()
    return AcrossRemovalResult(
        listed, probes.final_reports[0].hits, target_moved=kprobes.layout.probe_address(site) != address
    )


@dataclass(frozen=True)
class SecondProbeAtGoneOne:
    """The result for a loader that registers a probe on `site`, at `address`, where a probe is GONE."""

    site: Site
    address: int
    loader_result: LoaderResult
    console_output: str


def register_second_probe_at_gone_one(target: Target, shape: str, loaders: Loaders) -> SecondProbeAtGoneOne:
    """Register a probe in a function, load its module again, and let a loader register another probe there.

    A kernel that oopses in it keeps the lock of kprobes: no probe can be unregistered, and the guest must be discarded.
    """
    guest, layout = target.guest, Layout(target.guest, [target])
    site = layout.once_per_call_sites(target.shape_site(shape))[2]
    warm_up_allocations(layout, target, site)
    aimed = layout.next_instruction_site(site) if loaders.mutant.aims_past_site else site
    probe_module.load_probe_module(guest, [aimed.spec])
    reload_at_same_address(layout, target, site)
    guest.read_output_since_fence(guest.scaled_deadline(_FENCE_SECONDS))
    ended = loaders.run(order_for_site(layout, target, aimed))
    printed = guest.read_output_since_fence(guest.scaled_deadline(_FENCE_SECONDS))
    return SecondProbeAtGoneOne(site, layout.probe_address(site), ended, printed)


def register_after_racing_removals(layout: Layout, target: Target, site: Site, rounds: int) -> int:
    """Return the errno of the first registration that is refused after a removal of the site's jump; 0 if none is.

    In each round the probe on the site becomes a jump. Then the probe module and the target are removed at the same
    time: the kernel removes a jump some ticks after its probe (OPTIMIZE_DELAY, kernel/kprobes.c, 6.1), so that the
    target can be gone before that. The target is loaded again, and the next round registers a probe there.
    """
    guest = target.guest
    removal = f"rmmod {probe_module.MODULE} & rmmod {target.module}; status=$?; wait $! && (exit $status)"
    for _ in range(rounds):
        refused = probe_module.load_probe_module(guest, [site.spec]).reports[0].errno
        if refused:
            probe_module.unload_probe_module(guest)
            return refused
        _await_jump(layout, site)
        guest.run_script(removal).check()
        target.load()
    return 0


def _await_jump(layout: Layout, site: Site) -> None:
    """Wait until memory has a jump at a probed site. Raises Missed if it never has."""
    guest = layout.guest
    jump, address = guest.architecture.kprobe_traits.patch_by_flag[OPTIMIZED], layout.probe_address(site)
    deadline = guest.scaled_deadline(_JUMP_SECONDS)
    while not jump.matches(guest.memory.read(address, jump.size)):
        if deadline.expired:
            raise Missed(f"{site} did not become a jump in {_JUMP_SECONDS:.0f} s")


@dataclass(frozen=True)
class RegistrationRaceResult:
    """The registrations of a race: the count of each errno, and of the hits of each that succeeded."""

    errno_counts: Counter[int]
    hit_counts: Counter[int]

    def prove(self, allowed: Collection[int]) -> None:
        """Check that only these errnos occurred, that the two sides overlapped, and that a registered probe landed.

        A probe whose target was replaced before the call is hit 0 times, any other exactly as often as its function
        ran. Raises Missed.
        """
        strange = set(self.errno_counts) - set(allowed)
        if strange:
            raise Missed(f"refused with {', '.join(errno.errorcode.get(each, str(each)) for each in strange)}")
        if not self.errno_counts[0] or len(self.errno_counts) < 2:
            raise Missed(f"registration and removal did not overlap: {dict(self.errno_counts)}")
        if set(self.hit_counts) - {0, RACE_CALLS} or not self.hit_counts[RACE_CALLS]:
            raise Missed(f"the function ran {RACE_CALLS} times under each probe; times hit: {dict(self.hit_counts)}")


def race_registration(guest: Guest, module: str, shape: str, spec: str, rounds: int) -> RegistrationRaceResult:
    """Register a probe while a module is loaded and removed concurrently, and call the module's function under it.

    The race ends after _OFTEN successes and as many refusals, or after `rounds` registrations. Nothing synchronizes the
    two sides. A removal during a registration is refused with EWOULDBLOCK and tried again. Raises GuestError if the
    module cannot be loaded, or cannot be removed at the end.
    """
    target, mine = guest.copy_module(module), guest.copy_module(probe_module.MODULE)
    report = f"/sys/kernel/debug/{probe_module.MODULE}/report"
    # On a busy host few registrations end within a short life of the module, so every other life lasts, later a second.
    lasts = "case $((lives / 8)) in 0) sleep 0.1;; 1) sleep 0.2;; 2) sleep 0.4;; *) sleep 1;; esac"
    life = f"lives=$((lives + 1)); [ $((lives % 2)) -eq 1 ] || {lasts}"
    remove = f"until rmmod {module} 2>/dev/null; do :; done"
    churn = f"lives=0; while [ -e /tmp/racing ]; do insmod {target} || exit; {life}; {remove}; done"
    goes_on = f"[ $((round += 1)) -le {rounds} ] && {{ [ $met -lt {_OFTEN} ] || [ $refused -lt {_OFTEN} ]; }}"
    call = f"{{ echo {shape} {RACE_CALLS} >/sys/kernel/debug/{module}/call; }} 2>/dev/null"
    register = (
        f"insmod {mine} site={spec} && {{ {call}; line=$(cat {report}); }} && rmmod {probe_module.MODULE} || exit; "
        "echo $line"
    )
    met = f"*' errno=0 '*' hits={RACE_CALLS} '*) met=$((met + 1))"
    count = f"case $line in {met};; *' errno=0 '*) ;; *) refused=$((refused + 1));; esac"
    result = guest.run_script(
        f"touch /tmp/racing; ( {churn} ) & "
        f"( round=0 met=0 refused=0; while {goes_on}; do {register}; {count}; done ); "
        "status=$?; rm -f /tmp/racing; wait $! && exit $status",
        guest.scaled_deadline(_RACE_SECONDS),
    ).check()
    reports = probe_module.parse_report(result.stdout, guest.architecture.host_errno)
    return RegistrationRaceResult(
        Counter(report.errno for report in reports), Counter(report.hits for report in reports if not report.errno)
    )
