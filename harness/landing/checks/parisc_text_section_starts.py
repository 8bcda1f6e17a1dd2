"""Computes where the parisc module loader puts the text sections of a module: in sequence, with room for stubs."""

from __future__ import annotations

from harness.core.elf import Elf

# R_PARISC_PCREL17F and R_PARISC_PCREL22F: calls that may need a stub (count_stubs(), arch/parisc/kernel/module.c, 6.1).
_CALLS = frozenset({12, 74})
# struct stub_entry of a 32-bit kernel: two instructions.
_STUB = 8


def expected_section_starts(module: Elf) -> dict[str, int]:
    """The distance of each text section that stays loaded from the start of the module, by section name.

    Sections are placed as in layout_sections() (kernel/module/main.c), with the space that arch_mod_section_prepend()
    reserves before each. Empty sections take space too, but are not returned: sysfs does not list them, and on a kernel
    that merges text sections each object file leaves one that is called `.text` (`ld -r` for hppa keeps them apart).
    """
    found, end = {}, 0
    for section in module.allocated_sections:
        if section.executable and not section.name.startswith(".init"):
            calls = sum(each.type in _CALLS for each in module.relocations(section.name)) if section.size else 0
            end += (calls + 1) * _STUB
            start = -(-end // max(section.alignment, 1)) * max(section.alignment, 1)
            if section.size:
                found[section.name] = start
            end = start + section.size
    return found
