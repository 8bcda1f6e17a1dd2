"""The entry of 64-bit LoongArch; a part of the table of architectures."""

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
from harness.core.kprobe_patch_patterns import LOONGARCH_BREAKPOINT, LOONGARCH_CALL
from harness.core.qemu_registers import RegisterParser

# All line numbers and functions are those of 6.12.
LOONGARCH64 = Architecture(
    name="loongarch64",
    elf_machine="EM_LOONGARCH",
    debian="loong64",
    # Debian's first release with this port is the one after trixie, forky; trixie has the compiler. In forky's busybox
    # 1.38.0-3+b1 of loong64, `test 0 -ne 0 -a 1 -ne 0` is true: the compiler left out the first condition in aexpr()
    # (coreutils/test.c). The same version of amd64 is right.
    userland_from_source=True,
    cross_tools_suite="trixie",
    cross_tools_compiler="gcc-14",
    kernel_arch="loongarch",
    gnu_triplet="loongarch64-linux-gnu",
    kernel_target="vmlinux",
    kernel_file="vmlinux",
    word_bytes=8,
    qemu_machine=QemuMachine(
        qemu="qemu-system-loongarch64",
        machine="virt",
        cpu="la464",
        console="ttyS0",
        nic="virtio-net-pci",
        nic_modules=("virtio_pci", "virtio_net"),
        disk="virtio-blk-pci",
        # Seen on QEMU 11.1.3: in a thawed guest the timer's interrupt is pending and enabled, and never taken.
        cannot_save_because="QEMU's CPU takes no interrupt any more after its state was loaded",
        disk_modules=("virtio_blk", "squashfs", "overlay"),
    ),
    kprobe_traits=KprobeTraits(
        breakpoints=(LOONGARCH_BREAKPOINT,),
        patches=(LOONGARCH_BREAKPOINT, LOONGARCH_CALL),
        trap_offset=0,  # kprobe_breakpoint_handler(), arch/loongarch/kernel/kprobes.c:202: csr_era
        mid_instruction_errno=errno.EILSEQ,  # arch_prepare_kprobe(), kprobes.c:30
        instruction_alignment=4,
        decoder=DecoderKind.LOONGARCH,
        address_translation=AddressTranslation.QEMU,
        first_argument_pt_regs_offset=4 * 8,  # regs[4], a0 (arch/loongarch/include/asm/ptrace.h)
        second_argument_pt_regs_offset=5 * 8,
        # IE of CSR.CRMD (QEMU 11.1: loongarch_cpu_dump_state(), target/loongarch/cpu.c)
        register_parser=RegisterParser(r"\bPC=([0-9a-f]+)", r"\bCRMD +([0-9a-f]+)", 0x4),
        patch_by_flag={"[FTRACE]": LOONGARCH_CALL},
        ftrace_call_instruction=FtraceCallInstruction.LOONGARCH_BL,
        # arch_populate_kprobe_blacklist(), kprobes.c:324
        reserved_text_areas=("irqentry",),
        uprobe_breakpoint=bytes.fromhex("0c002a00"),  # UPROBE_SWBP_INSN, arch/loongarch/include/asm/uprobes.h
        uprobe_mid_instruction_errno=errno.EINVAL,  # __uprobe_register() demands the breakpoint's alignment
        # set_single_step(), ptrace.c:1035 (6.12), sets a watchpoint on instructions, which QEMU 11.1 does not have.
        steps_traced_processes=False,
    ),
    static_program_flags=("-static-pie", "-fPIE"),
)
