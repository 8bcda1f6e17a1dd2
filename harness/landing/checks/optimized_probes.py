"""ProbeRun that the kernel makes jumps of, and what such a jump may not displace."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.core.deadline import Deadline
from harness.landing.checks.probe_flags import await_flag
from harness.landing.code.instruction import Instruction
from harness.landing.code.instructions import decoded
from harness.landing.code.patch_sites import module_places
from harness.landing.code.patch_tables import JUMPS
from harness.landing.landing import Missed
from harness.landing.layout import Layout
from harness.landing.probe_run import Kprobes, ProbeRun
from harness.landing.site import Site

OPTIMIZED = "[OPTIMIZED]"
# Bytes of a relative jump (JMP32_INSN_SIZE, arch/x86/include/asm/text-patching.h, 6.1).
JUMP = 5
# The optimiser waits for a quiet moment of every task (kprobe_optimizer(), kernel/kprobes.c, 6.1).
_SECONDS = 30.0


def optimizable(kprobes: Kprobes, sites: Sequence[Site]) -> list[Site]:
    """Those of the sites, none nearer than a jump to the next, that the kernel makes jumps of. Raises Missed for none.

    Which instructions a jump may displace is the kernel's to say (can_optimize(), arch/x86/kernel/kprobes/opt.c, 6.1).
    """
    with Kprobes(kprobes.layout).on(*sites) as probes:
        await_flag(probes, OPTIMIZED)
        found = [site for site in sites if is_optimized(probes, site)]
    if not found:
        raise Missed(f"none of {len(sites)} probes became a jump")
    return found


def is_optimized(probes: ProbeRun, site: Site) -> bool:
    """True when the kernel listed the probe on this site with the flag when it was last looked at."""
    address = probes.layout.address(site)
    return any(OPTIMIZED in each.flags for each in probes.listed if each.address == address)


def displaced(layout: Layout, site: Site) -> list[Site]:
    """The instruction boundaries behind a site that a jump in its place would displace."""
    return [each for each in layout.boundaries(site) if site.offset < each.offset < site.offset + JUMP]


def branched_into(layout: Layout, sites: Iterable[Site]) -> list[Site]:
    """Those of the sites where a branch leads to what a jump would displace, behind its first byte."""
    return [site for site in sites if _targets(layout, site) & {each.offset for each in displaced(layout, site)}]


def _targets(layout: Layout, site: Site) -> set[int]:
    return {each.target for each in _code(layout, site) if each.target is not None}


def before_static_branches(layout: Layout, start: Site) -> list[Site]:
    """The instructions of a module's function behind which a static branch stands, shorter than a jump."""
    elf, symbol = layout.symbol(start)
    branches = {place - symbol.address for section, place in module_places(elf, JUMPS) if section == symbol.section}
    return [start.at(each.offset) for each in _code(layout, start) if each.end in branches and each.size < JUMP]


def await_jump(probes: ProbeRun, site: Site) -> None:
    """Look until the kernel lists the probe on one site as optimised, and memory has the jump. Raises Missed in vain.

    Other probes of the run are not looked at; they may be disabled.
    """
    patches = probes.guest.architecture.kprobes.flag_patches
    address, deadline = probes.layout.address(site), Deadline.after(_SECONDS)
    window = probes.sites.index(site)
    while not deadline.expired:
        memory = probes.windows[window]
        jump = memory.during[address - memory.start :].startswith(patches[OPTIMIZED])
        if jump and is_optimized(probes, site):
            return
        probes.look_again()
    raise Missed(f"{site} became no jump in {_SECONDS:.0f} s")


def _code(layout: Layout, site: Site) -> Sequence[Instruction]:
    elf, symbol = layout.symbol(site)
    return decoded(elf, symbol, layout.decoder)


def expect_no_jump(kprobes: Kprobes, sites: Sequence[Site], clock: Site) -> None:
    """Raise Missed when the kernel makes a jump of a probe on one of the sites, by the time that `clock`'s is one."""
    with kprobes.on(*sites, clock) as probes:
        await_flag(probes, OPTIMIZED)
        jumps = [site for site in sites if is_optimized(probes, site)]
        timed = is_optimized(probes, clock)
    if jumps or not timed:
        reason = f"{', '.join(map(str, jumps))} became jumps" if jumps else f"{clock} never became a jump"
        raise Missed(reason)
    probes.prove()
