"""Function descriptors of an ELF file (CONFIG_HAVE_FUNCTION_DESCRIPTORS), to which function pointers point."""

from __future__ import annotations

from functools import lru_cache

from harness.core.elf import Elf
from harness.core.elf_symbols_and_relocations import DESCRIPTORS, DOTTED_MACHINES
from harness.landing.code.patch_sites import dynamic_values

# Where a descriptor has the function's address (Elf64_Fdesc, arch/parisc/include/asm/elf.h; struct func_desc,
# arch/powerpc/include/asm/elf.h; 6.1). Little-endian PowerPC has no section of descriptors.
_PLACES = {"EM_PARISC": 16, "EM_PPC64": 0}


def has_dotted_functions(elf: Elf) -> bool:
    """True if the kernel names the code of a function `.f` and its descriptor `f` (ELFv1 of PowerPC)."""
    return elf.machine in DOTTED_MACHINES and DESCRIPTORS in elf.sections_by_name


def protects_suffixed_parts(elf: Elf) -> bool:
    """True if the kernel refuses a probe in `f.cold` and similar parts of a function `f` on its blacklist.

    within_kprobe_blacklist() (kernel/kprobes.c:1403, 6.1) looks for the name before the first dot. That of `.f.cold`
    is empty.
    """
    return not has_dotted_functions(elf)


class FunctionDescriptors:
    """The descriptors of one linked file; none where the machine has no descriptors."""

    def __init__(self, elf: Elf) -> None:
        section = elf.sections_by_name.get(DESCRIPTORS) if elf.machine in _PLACES else None
        self._place = _PLACES.get(elf.machine, 0)
        self._word, self._order = elf.word_bytes, elf.byte_order
        self._range = range(section.address, section.address + section.size) if section else range(0)
        self._content = elf.section_bytes(DESCRIPTORS, 0, section.size) if section else b""
        self._moved = dynamic_values(elf) if section else {}

    def code_address(self, pointer: int) -> int:
        """Return the address of the function whose descriptor is at an address; any other address unchanged."""
        if pointer not in self._range:
            return pointer
        start = pointer - self._range.start + self._place
        value = int.from_bytes(self._content[start : start + self._word], self._order)
        return self._moved.get(pointer + self._place, value)


@lru_cache(maxsize=8)
def function_descriptors(elf: Elf) -> FunctionDescriptors:
    """Return the descriptors of a linked file; they are read once."""
    return FunctionDescriptors(elf)
