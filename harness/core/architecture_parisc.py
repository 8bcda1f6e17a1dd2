"""The entry of 32-bit PA-RISC; a part of the table of architectures."""

from __future__ import annotations

import errno

from harness.core.architecture import AddressTranslation, Architecture, DecoderKind, KprobeTraits, QemuMachine
from harness.core.architecture_defects import PARISC_DEFECTS
from harness.core.kprobe_patch_patterns import PARISC_BREAKPOINT
from harness.core.qemu_registers import RegisterParser

PARISC = Architecture(
    name="parisc",
    elf_machine="EM_PARISC",
    debian=None,
    kernel_arch="parisc",
    byte_order="big",
    gnu_triplet="hppa-linux-gnu",
    kernel_target="vmlinux",
    kernel_file="vmlinux",
    word_bytes=4,
    qemu_machine=QemuMachine(
        qemu="qemu-system-hppa",
        machine="hppa",  # the B160L
        # QEMU 8.2 has both names, QEMU 11 only the new one (hw/hppa/machine.c).
        machine_name_since_version=((8, 2), "B160L"),
        cpu="",
        console="ttyS0",
        nic="tulip",
        nic_modules=(),
    ),
    kprobe_traits=KprobeTraits(
        breakpoints=(PARISC_BREAKPOINT,),
        patches=(PARISC_BREAKPOINT,),
        trap_offset=0,
        mid_instruction_errno=errno.EINVAL,
        instruction_alignment=4,
        decoder=DecoderKind.PARISC,
        address_translation=AddressTranslation.PARISC_TABLES,
        first_argument_pt_regs_offset=26 * 4,  # gr[26]
        second_argument_pt_regs_offset=25 * 4,  # gr[25]
        register_parser=RegisterParser(r"IA_F (?:[0-9a-f]+:)?([0-9a-f]+)", r"\bPSW +([0-9a-f]+)", 0x1),
        defects=PARISC_DEFECTS,
    ),
)
