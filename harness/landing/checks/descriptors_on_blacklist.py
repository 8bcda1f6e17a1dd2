"""The defect of kernels whose functions have descriptors: NOKPROBE_SYMBOL() in a module blacklists other code."""

from __future__ import annotations

import errno

from harness.core.elf import Elf
from harness.core.elf_symbols_and_relocations import DESCRIPTORS
from harness.guest.result import parsing_guest_text
from harness.landing import probe_module
from harness.landing.code.function_selection import read_blacklist_ranges
from harness.landing.landing_judgment import Missed
from harness.landing.mutants import HONEST
from harness.landing.probe_run import Kprobes
from harness.landing.site import Site

# The symbol of each pointer that NOKPROBE_SYMBOL() makes (include/asm-generic/kprobes.h, 6.1).
_POINTER = "_kbl_addr_"


def cause_of_refusal_by_descriptors(kprobes: Kprobes, site: Site, module: str) -> str:
    """Return the defect's cause if it makes the kernel refuse a probe of `module` on a site; "" if not, or in a mutant.

    The kernel treats the pointers of the module's NOKPROBE_SYMBOL() as addresses of functions, but they are addresses
    of descriptors. Those of parisc are before the module's sections. From each of them on the kernel refuses as many
    bytes as are between the two closest symbols. Whether the site is among these depends on where the modules are.
    Those of PowerPC are in the module's data, and kprobe_add_ksym_blacklist() (kernel/kprobes.c, 6.1) adds none.

    Raises Missed if the kernel's blacklist has other ranges in the module's memory than these, or if they do not decide
    whether the probe is refused.
    """
    guest = kprobes.layout.guest
    cause = guest.image.recipe.defects.descriptors_blacklisted
    if cause is None or not site.module or kprobes.mutant is not HONEST:
        return ""
    (report,) = probe_module.load_probe_module(guest, [site.spec], module=module).reports
    try:
        ranges = read_blacklist_ranges(guest)
        placed = guest.run_script(f"grep '^{module} ' /proc/modules; cat /sys/module/{module}/sections/.text").check()
    finally:
        probe_module.unload_probe_module(guest, module)
    with parsing_guest_text("/proc/modules"):
        *line, text = placed.stdout.split()
        size, base, start_of_text = int(line[1]), int(line[5], 16), int(text, 16)
    elf = Elf.read_cached(guest.image.modules[module])
    pointers = [each for each in elf.symbols if each.name.startswith(_POINTER)]
    in_module = [(start, end) for start, end in ranges if base <= start < base + size]
    wrong = [(start, end) for start, end in in_module if start < start_of_text]
    expected = 0 if DESCRIPTORS in elf.sections_by_name else len(pointers)
    address = kprobes.layout.probe_address(site)
    covered = any(start <= address < end for start, end in wrong)
    if not len(in_module) == len(wrong) == expected or report.errno != (errno.EINVAL if covered else 0):
        shown = ", ".join(f"{start:#x}-{end:#x}" for start, end in in_module) or "nothing"
        raise Missed(
            f"documented defect absent; fixed? {len(pointers)} pointers of {module}, whose text is at "
            f"{start_of_text:#x}: the blacklist has {shown}; the probe at {address:#x}: errno {report.errno}"
        )
    return cause if covered else ""
