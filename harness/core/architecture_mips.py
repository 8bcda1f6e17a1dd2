"""The entries of 64-bit little-endian and of 32-bit big-endian MIPS; a part of the table of architectures."""

from __future__ import annotations

import errno
from dataclasses import replace

from harness.core.architecture import (
    AddressTranslation,
    Architecture,
    DecoderKind,
    FtraceCallInstruction,
    KprobeTraits,
    PatchPattern,
    QemuMachine,
)
from harness.core.architecture_defects import MIPS_DEFECTS, MIPS_TAKES_MISALIGNED, MIPS_TRAP_HANDLERS_FUNCTIONS
from harness.core.kprobe_patch_patterns import MIPS_BREAKPOINT, MIPS_UPROBE_BREAKPOINT
from harness.core.qemu_registers import RegisterParser

_BREAKPOINT = PatchPattern(MIPS_BREAKPOINT.to_bytes(4, "little"), 4)

# All line numbers and functions are those of 6.1.
MIPS64EL = Architecture(
    name="mips64el",
    elf_machine="EM_MIPS",
    debian="mips64el",
    kernel_arch="mips",
    gnu_triplet="mips64el-linux-gnuabi64",
    kernel_target="vmlinuz",
    kernel_file="vmlinuz",
    word_bytes=8,
    qemu_machine=QemuMachine(
        qemu="qemu-system-mips64el",
        machine="malta",
        cpu="MIPS64R2-generic",
        console="ttyS0",
        nic="virtio-net-pci",
        nic_modules=("virtio_pci", "virtio_net"),
        disk="virtio-blk-pci",
        disk_modules=("virtio_blk", "squashfs", "overlay"),
        # mips_cpu_reset(), target/mips/cpu.c, QEMU 7.2, stops the others only where the CPU has the MT extension.
        one_cpu_because="a second CPU of QEMU's malta runs the boot code, too, and the kernel uses one",
    ),
    kprobe_traits=KprobeTraits(
        breakpoints=(_BREAKPOINT,),
        patches=(_BREAKPOINT,),
        trap_offset=0,  # kprobe_handler(), arch/mips/kernel/kprobes.c:304: cp0_epc is the breakpoint's address
        mid_instruction_errno=0,
        takes_misaligned=MIPS_TAKES_MISALIGNED,
        instruction_alignment=4,
        decoder=DecoderKind.MIPS_LITTLE,
        address_translation=AddressTranslation.MIPS64_TABLES,
        first_argument_pt_regs_offset=4 * 8,  # regs[4], a0 (arch/mips/include/asm/ptrace.h)
        second_argument_pt_regs_offset=5 * 8,
        # IE of the status register (QEMU: mips_cpu_dump_state(), target/mips/cpu.c)
        register_parser=RegisterParser(r"\bpc=0x([0-9a-f]+)", r"CP0 Status +0x([0-9a-f]+)", 0x1),
        ftrace_call_instruction=FtraceCallInstruction.MIPS_JAL,
        trap_handlers_functions=MIPS_TRAP_HANDLERS_FUNCTIONS,
        defects=MIPS_DEFECTS,
        uprobe_breakpoint=MIPS_UPROBE_BREAKPOINT.to_bytes(4, "little"),
        # arch_uprobe_analyze_insn(), arch/mips/kernel/uprobes.c:44
        uprobe_mid_instruction_errno=errno.EINVAL,
        steps_traced_processes=False,  # no arch_has_single_step() (arch/mips/include/asm/ptrace.h, 6.1 to 7.3)
    ),
    flat_image_base_address=0xFFFFFFFF80100000,  # load-y of arch/mips/mti-malta/Platform
    static_program_flags=("-static",),  # Debian's glibc 2.36 has no static-pie for MIPS (rcrt1.o)
)

_BIG_BREAKPOINT = PatchPattern(MIPS_BREAKPOINT.to_bytes(4, "big"), 4)
# struct pt_regs of 32 bits begins with pad0[8] (arch/mips/include/asm/ptrace.h).
_PADDING = 8 * 4

MIPS = replace(
    MIPS64EL,
    name="mips",
    debian=None,
    gnu_triplet="mips-linux-gnu",
    kernel_target="vmlinux",
    kernel_file="vmlinux",
    word_bytes=4,
    byte_order="big",
    flat_image_base_address=0,  # vmlinux is an ELF file, which QEMU boots
    qemu_machine=replace(MIPS64EL.qemu_machine, qemu="qemu-system-mips", cpu="24Kf", disk="", disk_modules=()),
    kprobe_traits=replace(
        MIPS64EL.kprobe_traits,
        breakpoints=(_BIG_BREAKPOINT,),
        patches=(_BIG_BREAKPOINT,),
        decoder=DecoderKind.MIPS_BIG,
        address_translation=AddressTranslation.MIPS32_TABLES,
        first_argument_pt_regs_offset=_PADDING + 4 * 4,  # regs[4], a0
        # regs[7], a3: a 64-bit argument, such as the offset of register_uprobe(), begins at an even register (o32).
        second_argument_pt_regs_offset=_PADDING + 7 * 4,
        ftrace_call_instruction=FtraceCallInstruction.MIPS32_JAL,
        uprobe_breakpoint=MIPS_UPROBE_BREAKPOINT.to_bytes(4, "big"),
    ),
)
