"""Where the parisc module loader puts the sections of a module's text: behind each other, with room for stubs."""

from __future__ import annotations

from harness.core.elf import Elf

# R_PARISC_PCREL17F and R_PARISC_PCREL22F: calls that may need a stub (count_stubs(), arch/parisc/kernel/module.c, 6.1).
_CALLS = frozenset({12, 74})
# struct stub_entry of a 32-bit kernel: two instructions.
_STUB = 8


def expected_starts(module: Elf) -> dict[str, int]:
    """Each section of a module's text that stays, by name: its distance from where the module begins.

    As layout_sections() lays them out (kernel/module/main.c), empty ones too, with arch_mod_section_prepend().
    """
    found, end = {}, 0
    for section in module.allocated:
        if section.executable and not section.name.startswith(".init"):
            calls = sum(each.type in _CALLS for each in module.relocations(section.name)) if section.size else 0
            end += (calls + 1) * _STUB
            start = -(-end // max(section.alignment, 1)) * max(section.alignment, 1)
            found[section.name] = start
            end = start + section.size
    return found
