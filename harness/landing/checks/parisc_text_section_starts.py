"""Computes where the parisc module loader puts the text sections of a module: in sequence, with room for stubs."""

from __future__ import annotations

from harness.core.elf import Elf

# R_PARISC_PCREL17F and R_PARISC_PCREL22F: calls that may need a stub (count_stubs(), arch/parisc/kernel/module.c, 6.1).
_CALLS = frozenset({12, 74})
# Of a 64-bit kernel: R_PARISC_LTOFF21L, LTOFF14R and PCREL22F, which may need an entry of the GOT (count_gots()), and
# R_PARISC_FPTR64, which may need a descriptor (count_fdescs()). Both are in front of all sections.
_GOT_USES, _DESCRIPTOR_USES = frozenset({34, 38, 74}), frozenset({64})
_GOT_ENTRY, _DESCRIPTOR, _ALIGNMENT = 8, 32, 16


def expected_section_starts(module: Elf) -> dict[str, int]:
    """The distance of each text section that stays loaded from the start of the module, by section name.

    Sections are placed as in layout_sections() (kernel/module/main.c), with the space that arch_mod_section_prepend()
    reserves before each. Empty sections take space too, but are not returned: sysfs does not list them, and on a kernel
    that merges text sections each object file leaves one that is called `.text` (`ld -r` for hppa keeps them apart).
    """
    # struct stub_entry: two instructions of four bytes, or four in a 64-bit kernel.
    found, end, stub = {}, _bytes_before_sections(module), 2 * module.word_bytes
    for section in module.allocated_sections:
        if section.executable and not section.name.startswith(".init"):
            calls = sum(each.type in _CALLS for each in module.relocations(section.name)) if section.size else 0
            end += (calls + 1) * stub
            start = -(-end // max(section.alignment, 1)) * max(section.alignment, 1)
            if section.size:
                found[section.name] = start
            end = start + section.size
    return found


def _bytes_before_sections(module: Elf) -> int:
    """The size of the GOT and of the function descriptors (module_frob_arch_sections())."""
    if module.word_bytes == 4:
        return 0
    types = [each.type for name in module.sections_by_name for each in module.relocations(name)]
    table = sum(each in _GOT_USES for each in types) * _GOT_ENTRY
    return -(-table // _ALIGNMENT) * _ALIGNMENT + sum(each in _DESCRIPTOR_USES for each in types) * _DESCRIPTOR
