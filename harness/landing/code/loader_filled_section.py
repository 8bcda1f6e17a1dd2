"""The sections of a module that the kernel's loader fills with jumps: which relocations need one, and their form."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class JumpForm(Enum):
    """The form of the jumps that a module's loader writes."""

    ARM64 = "arm64"
    """`adrp; add; br`, or `adrp; add; b` (get_plt_entry(), arch/arm64/kernel/module-plts.c, 6.1)."""
    ARM = "arm"
    """Blocks of 16 `ldr pc, [pc, #56]` and their 16 words (struct plt_entries, arch/arm/include/asm/module.h, 6.1)."""
    LOONGARCH = "loongarch"
    """Four instructions with the whole target (emit_plt_entry(), arch/loongarch/include/asm/module.h, 6.12)."""
    PPC64 = "ppc64"
    """Seven words of code, a magic word and the target (struct ppc64_stub_entry, powerpc/kernel/module_64.c, 6.1)."""
    PPC64_V1 = "ppc64-v1"
    """The same of a big-endian module, with a function descriptor as target."""


class LoaderFilledSection(NamedTuple):
    """A section of a module that the loader fills with jumps (landing/code/module_plt.py).

    It jumps to what relocations of a type in `call_relocation_types` name, and to `jump_targets`. Each relocation of a
    type in `page_relocation_types` may need an entry, too.
    """

    call_relocation_types: frozenset[int] = frozenset()
    page_relocation_types: frozenset[int] = frozenset()
    jump_targets: tuple[str, ...] = ()
    form: JumpForm = JumpForm.ARM64
