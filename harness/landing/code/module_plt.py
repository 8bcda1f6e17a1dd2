"""Sections of a module that the kernel's loader fills: the file has one byte of each, as a place for them.

arm64's loader makes `.plt` as long as the module's calls need and writes one entry for each function that a call
does not reach; `.text.ftrace_trampoline` has one entry, for ftrace (module_frob_arch_sections() and
module_emit_plt_entry(), arch/arm64/kernel/module-plts.c, and module_init_ftrace_plt(), module.c, 6.1). ARM's loader
does the same with `.plt` and `.init.plt`, in blocks of 16 entries, the first two of which are for ftrace
(get_module_plt(), arch/arm/kernel/module-plts.c, 6.1). So these bytes are compared with what the loader may write,
instead of with the file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

from harness.core.elf import Elf, Symbol
from harness.landing.code import module_loongarch_plt
from harness.landing.code.loader_filled_section import JumpForm
from harness.landing.code.module_ppc64_stubs import STUB, STUB_V1, find_foreign_stub_offsets
from harness.landing.code.patch_tables import MACHINES

ENTRY_SIZE = 12
# ARM: LDR pc, [pc, #56] loads the word that is a cache line (L1_CACHE_BYTES) further.
ARM_BLOCK_SIZE, _ARM_LITERALS, _LDR_PC_56 = 128, 64, 0xE59FF038
_WORD = struct.Struct("<I")
_PPC64_STUBS = {JumpForm.PPC64: STUB, JumpForm.PPC64_V1: STUB_V1}
_PAGE = 12
_BITS = (1 << 64) - 1
# The register that a linkage entry may overwrite, and the instructions of an entry without their fields.
_X16 = 16
_ADRP, _ADRP_MASK = 0x90000000, 0x9F000000
_ADD, _ADD_MASK = 0x91000000, 0xFFC00000
_BR, _BR_MASK = 0xD61F0000, 0xFFFFFC1F
_B, _B_MASK = 0x14000000, 0xFC000000


class JumpEntry(NamedTuple):
    """One entry: where it jumps to; `returns_to_module` is true for a veneer of ADRP, which goes back to its module."""

    target: int
    returns_to_module: bool = False


def loader_filled_sections(elf: Elf) -> Collection[str]:
    """Return the sections of a module that the loader fills."""
    linkage = MACHINES[elf.machine].loader_filled_sections
    return () if elf.linked else [name for name in linkage if name in elf.sections_by_name]


def largest_section_size(elf: Elf, section: str) -> int:
    """Return the size in bytes that such a section has at most in memory."""
    linkage = MACHINES[elf.machine].loader_filled_sections[section]
    if not linkage.call_relocation_types:
        return ENTRY_SIZE
    moved = sum(each.type in linkage.call_relocation_types for name in _code(elf) for each in elf.relocations(name))
    # One entry more than calls (count_plts()), and one for each veneer of Cortex-A53's erratum 843419.
    veneers = sum(each.type in linkage.page_relocation_types for name in _code(elf) for each in elf.relocations(name))
    if linkage.form is JumpForm.ARM:
        blocks = -(-(moved + len(linkage.jump_targets)) * 2 * _WORD.size // ARM_BLOCK_SIZE)
        return ARM_BLOCK_SIZE * blocks
    form = loader_jump_form(elf, section)
    if form is JumpForm.LOONGARCH:
        return module_loongarch_plt.ENTRY_SIZE * (moved + 1)
    if form in _PPC64_STUBS:
        # One more, which ends the list (get_stubs_size()).
        return _PPC64_STUBS[form].size * (moved + len(linkage.jump_targets) + 1)
    return ENTRY_SIZE * (moved + veneers + 1)


def jump_target_symbols(elf: Elf, section: str) -> list[tuple[Symbol, int]]:
    """Return the symbols, each with its addend, that the entries of a section may jump to.

    A symbol without a section is another file's.
    """
    linkage = MACHINES[elf.machine].loader_filled_sections[section]
    found: dict[tuple[Symbol, int], None] = {
        (Symbol(name, 0, 0, "", "func", "global"), 0): None for name in linkage.jump_targets
    }
    found |= {
        (each.symbol, each.addend): None
        for name in _code(elf)
        for each in elf.relocations(name)
        if each.type in linkage.call_relocation_types
    }
    return list(found)


def find_foreign_entry_offsets(
    content: bytes,
    start: int,
    allowed: Collection[int],
    inside: Callable[[int], bool],
    form: JumpForm = JumpForm.ARM64,
) -> Iterator[int]:
    """Yield the offset of each entry of a section in memory at `start` that the loader does not write.

    An entry is empty, or jumps to an allowed address, or, for a veneer, to one that is `inside` of the module's code.
    """
    if form is JumpForm.ARM:
        yield from _foreign_arm_entry_offsets(content, allowed)
        return
    if form is JumpForm.LOONGARCH:
        yield from module_loongarch_plt.find_foreign_plt_offsets(content, allowed)
        return
    if form in _PPC64_STUBS:
        yield from find_foreign_stub_offsets(content, start, allowed, _PPC64_STUBS[form])
        return
    for offset in range(0, len(content), ENTRY_SIZE):
        piece = content[offset : offset + ENTRY_SIZE]
        if not any(piece):
            continue
        entry = decode_entry(piece, start + offset)
        if entry is None or not (inside(entry.target) if entry.returns_to_module else entry.target in allowed):
            yield offset


def _foreign_arm_entry_offsets(content: bytes, allowed: Collection[int]) -> Iterator[int]:
    """Yield as find_foreign_entry_offsets() does, for blocks of 16 loads and 16 words; unused words are zero."""
    for block in range(0, len(content), ARM_BLOCK_SIZE):
        piece = content[block : block + ARM_BLOCK_SIZE]
        if not any(piece):
            continue
        words = [word for (word,) in _WORD.iter_unpack(piece[: len(piece) // _WORD.size * _WORD.size])]
        loads, literals = words[: _ARM_LITERALS // _WORD.size], words[_ARM_LITERALS // _WORD.size :]
        for number, load in enumerate(loads):
            target = literals[number] if number < len(literals) else None
            if load != _LDR_PC_56 or target is None or not (target == 0 or target in allowed):
                yield block + number * _WORD.size


def loader_jump_form(elf: Elf, section: str) -> JumpForm:
    """Return the form of the jumps in a section that the loader fills."""
    form = MACHINES[elf.machine].loader_filled_sections[section].form
    return JumpForm.PPC64_V1 if form is JumpForm.PPC64 and elf.byte_order == "big" else form


def decode_entry(piece: bytes, address: int) -> JumpEntry | None:
    """Decode an entry, `adrp; add; br` or the veneer `adrp; add; b` (get_plt_entry()); None for any other bytes."""
    if len(piece) < ENTRY_SIZE:
        return None
    page, low, jump = (word for (word,) in _WORD.iter_unpack(piece))
    register = page & 0x1F
    if page & _ADRP_MASK != _ADRP or low & _ADD_MASK != _ADD or low & 0x1F != register or low >> 5 & 0x1F != register:
        return None
    if jump & _B_MASK == _B:
        return JumpEntry((address + 8 + 4 * _signed(jump & ~_B_MASK, 26)) & _BITS, returns_to_module=True)
    if jump & _BR_MASK != _BR or register != _X16 or jump >> 5 & 0x1F != register:
        return None
    pages = _signed((page >> 5 & 0x7FFFF) << 2 | page >> 29 & 3, 21)
    return JumpEntry(((address >> _PAGE << _PAGE) + (pages << _PAGE) + (low >> 10 & 0xFFF)) & _BITS)


def _signed(field: int, bits: int) -> int:
    return field - (1 << bits) if field >> (bits - 1) else field


def _code(elf: Elf) -> Iterable[str]:
    return [name for name, section in elf.sections_by_name.items() if section.executable]
