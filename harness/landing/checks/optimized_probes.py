"""Checks of optimized kprobes: which probes the kernel turns into jumps, and what such a jump must not displace."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

from harness.guest.guest import Guest
from harness.landing.checks.probe_flags import await_flag, select_sites_apart
from harness.landing.code.instruction import Instruction
from harness.landing.code.instructions import decode_function
from harness.landing.code.patch_sites import module_table_entries
from harness.landing.code.patch_tables import JUMPS
from harness.landing.five_address_witnesses import Window
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.probe_module import OPTIMIZED
from harness.landing.probe_run import Kprobes, ProbeRun
from harness.landing.site import Site
from harness.landing.target import Target

# The optimizer waits for an RCU-tasks grace period (kprobe_optimizer(), kernel/kprobes.c, 6.1).
_SECONDS = 30.0
# For each guest, the sites of files that were tried, and whether the kernel turned a kprobe there into a jump.
_tried: WeakKeyDictionary[Guest, dict[tuple[Path, Site], bool]] = WeakKeyDictionary()
# A function that every kernel has, and that is not called in an idle guest.
_KERNELS = Site("clock_t_to_jiffies")


def jump_size(layout: Layout) -> int:
    """The bytes of the jump of an optimized probe."""
    return layout.guest.architecture.kprobe_traits.patch_by_flag[OPTIMIZED].size


class JumpTraits(NamedTuple):
    """What the jumps of optimized probes are like.

    `displace_instructions`: such a jump changes bytes of instructions after its own. On x86 a jump is longer than most
    instructions, on ARM every instruction is as long as a jump. `in_modules`: probes in modules become jumps, too. On
    64-bit PowerPC modules are out of reach of a branch (arch_prepare_optimized_kprobe(), optprobes.c, 6.1).
    """

    displace_instructions: bool
    in_modules: bool


def read_jump_traits(layout: Layout, target: Target) -> JumpTraits:
    """Probe functions of the target and of the kernel, and look which probes become jumps. Raises Missed if none."""
    starts = (target.shape_site("carries"), _KERNELS)
    sites = [
        site for start in starts for site in select_sites_apart(layout.once_per_call_sites(start), jump_size(layout))
    ]
    with Kprobes(layout).on(*sites) as probes:
        await_flag(probes, OPTIMIZED)
        windows = dict(zip(sites, probes.memory_windows, strict=True))
        jumps = [site for site in sites if is_optimized(probes, site)]
        displace = any(_changed_after_instruction(layout, site, windows[site]) for site in jumps)
        return JumpTraits(displace, any(site.module for site in jumps))


def _changed_after_instruction(layout: Layout, site: Site, window: Window) -> bool:
    start = layout.probe_address(site)
    size = next(each.size for each in _code(layout, site) if each.offset == site.offset)
    behind = range(start + size - window.start, start + jump_size(layout) - window.start)
    return any(window.before[place] != window.during[place] for place in behind)


def optimizable_sites(kprobes: Kprobes, sites: Sequence[Site]) -> list[Site]:
    """The sites at which the kernel turns a kprobe into a jump. Raises Missed if there is none.

    The sites must be at least as far apart as a jump is long. The kernel decides which instructions a jump may displace
    (can_optimize(), arch/x86/kernel/kprobes/opt.c, 6.1), by the code alone, so each site is tried once in a guest.
    """
    layout = kprobes.layout
    known, files = _tried.setdefault(layout.guest, {}), [layout.elf_and_symbol(site)[0].path for site in sites]
    if not all(each in known for each in zip(files, sites, strict=True)):
        with Kprobes(layout).on(*sites) as probes:
            await_flag(probes, OPTIMIZED)
            known.update({(file, site): is_optimized(probes, site) for file, site in zip(files, sites, strict=True)})
    found = [site for file, site in zip(files, sites, strict=True) if known[file, site]]
    if not found:
        raise Missed(f"none of {len(sites)} probes became a jump")
    return found


def is_optimized(probes: ProbeRun, site: Site) -> bool:
    """True if the kernel listed the probe on this site as optimized when the list was last read."""
    address = probes.layout.probe_address(site)
    return any(OPTIMIZED in each.flags for each in probes.listed_probes if each.address == address)


def sites_overwritten_by_jump(layout: Layout, site: Site) -> list[Site]:
    """The instruction boundaries after a site that a jump at the site would overwrite."""
    end = site.offset + jump_size(layout)
    return [each for each in layout.instruction_sites(site) if site.offset < each.offset < end]


def sites_overwriting_branch_targets(layout: Layout, sites: Iterable[Site]) -> list[Site]:
    """The sites at which a jump would overwrite the target of a branch with a byte other than its first."""
    return [
        site
        for site in sites
        if _targets(layout, site) & {each.offset for each in sites_overwritten_by_jump(layout, site)}
    ]


def _targets(layout: Layout, site: Site) -> set[int]:
    return {each.target for each in _code(layout, site) if each.target is not None}


def sites_before_static_branches(layout: Layout, start: Site) -> list[Site]:
    """The instructions of a module's function that are shorter than a jump and directly precede a static branch."""
    elf, symbol = layout.elf_and_symbol(start)
    branches = {
        place - symbol.address for section, place in module_table_entries(elf, JUMPS) if section == symbol.section
    }
    return [
        start.at_offset(each.offset)
        for each in _code(layout, start)
        if each.end in branches and each.size < jump_size(layout)
    ]


def await_jump(probes: ProbeRun, site: Site) -> None:
    """Wait until the kernel lists the probe on one site as optimized and memory has the jump. Raises Missed if not.

    Other probes of the run are not checked; they may be disabled.
    """
    patches = probes.guest.architecture.kprobe_traits.patch_by_flag
    address, deadline = probes.layout.probe_address(site), probes.guest.scaled_deadline(_SECONDS)
    window = probes.sites.index(site)
    while not deadline.expired:
        memory = probes.memory_windows[window]
        jump = patches[OPTIMIZED].matches(memory.during[address - memory.start :])
        if jump and is_optimized(probes, site):
            return
        probes.read_again()
    raise Missed(f"{site} did not become a jump in {_SECONDS:.0f} s")


def _code(layout: Layout, site: Site) -> Sequence[Instruction]:
    elf, symbol = layout.elf_and_symbol(site)
    return decode_function(elf, symbol, layout.decoder)


def expect_no_jump(kprobes: Kprobes, sites: Sequence[Site], clock: Site) -> None:
    """Raise Missed if the kernel has turned a probe on one of the sites into a jump once `clock`'s probe is a jump."""
    with kprobes.on(*sites, clock) as probes:
        await_flag(probes, OPTIMIZED)
        jumps = [site for site in sites if is_optimized(probes, site)]
        timed = is_optimized(probes, clock)
    if jumps or not timed:
        reason = f"{', '.join(map(str, jumps))} became jumps" if jumps else f"{clock} never became a jump"
        raise Missed(reason)
    probes.prove()
