"""The entry of 64-bit little-endian PowerPC; a part of the table of architectures."""

from __future__ import annotations

import errno

from harness.core.architecture import (
    AddressTranslation,
    Architecture,
    DecoderKind,
    FtraceCallInstruction,
    KprobeTraits,
    QemuMachine,
)
from harness.core.architecture_defects import PPC_TRAP_HANDLERS_FUNCTIONS
from harness.core.kprobe_patch_patterns import PPC_BRANCH, PPC_CALL, PPC_TRAP
from harness.core.qemu_registers import RegisterParser

# All line numbers and functions are those of 6.1.
PPC64LE = Architecture(
    name="ppc64le",
    elf_machine="EM_PPC64",
    debian="ppc64el",
    kernel_arch="powerpc",
    gnu_triplet="powerpc64le-linux-gnu",
    kernel_target="vmlinux",
    kernel_file="vmlinux",
    word_bytes=8,
    qemu_machine=QemuMachine(
        qemu="qemu-system-ppc64",
        # TCG has none of the mitigations that a pseries machine has by default (hw/ppc/spapr_caps.c).
        machine="pseries,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off",
        cpu="power9",
        console="hvc0",
        nic="virtio-net-pci",
        nic_modules=("virtio_pci", "virtio_net"),
        # Its detector of hard lockups measures by the timebase, which goes on while the host does not run the guest
        # (watchdog_timer_interrupt(), arch/powerpc/kernel/watchdog.c). That of soft lockups stays.
        kernel_arguments=("nmi_watchdog=0",),
        disk="virtio-blk-pci",
        disk_modules=("virtio_blk", "squashfs", "overlay"),
    ),
    kprobe_traits=KprobeTraits(
        breakpoints=(PPC_TRAP,),
        patches=(PPC_TRAP, PPC_BRANCH, PPC_CALL),
        # kprobe_handler(), arch/powerpc/kernel/kprobes.c:285; kprobe_ftrace_handler(), kprobes-ftrace.c:44, takes the
        # size of the call off.
        trap_offset=0,
        mid_instruction_errno=errno.EINVAL,  # arch_prepare_kprobe(), kprobes.c:149
        instruction_alignment=4,
        decoder=DecoderKind.PPC64,
        address_translation=AddressTranslation.QEMU,
        first_argument_pt_regs_offset=3 * 8,  # gpr[3] (arch/powerpc/include/asm/ptrace.h)
        second_argument_pt_regs_offset=4 * 8,
        # MSR_EE. Linux leaves it set where it only records that interrupts are off (arch/powerpc/include/asm/hw_irq.h).
        register_parser=RegisterParser(r"\bNIP +([0-9a-f]+)", r"\bMSR +([0-9a-f]+)", 0x8000),
        patch_by_flag={"[OPTIMIZED]": PPC_BRANCH, "[FTRACE]": PPC_CALL},
        ftrace_call_instruction=FtraceCallInstruction.PPC_BL,
        trap_handlers_functions=PPC_TRAP_HANDLERS_FUNCTIONS,
        probes_local_entry=True,  # kprobe_lookup_name(), kprobes.c:44
        return_probe_entry_bytes=16,  # arch_kprobe_on_func_entry(), kprobes.c:105
        # arch_within_kprobe_blacklist(), kprobes.c:35: the exception vectors. The file of the blacklist does not have
        # them, because there is no arch_populate_kprobe_blacklist().
        refused_symbol_ranges=(("_stext", "__head_end"),),
        uprobe_breakpoint=bytes.fromhex("0800e07f"),  # UPROBE_SWBP_INSN, arch/powerpc/include/asm/uprobes.h
        uprobe_mid_instruction_errno=errno.EINVAL,  # arch_uprobe_analyze_insn(), uprobes.c:38
    ),
    static_program_flags=("-static",),  # Debian's glibc 2.36 has no static-pie for ppc64el (rcrt1.o)
)
