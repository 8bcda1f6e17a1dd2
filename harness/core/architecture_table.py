"""The one table of architecture differences: names, QEMU machines, kprobes. No other file tests the architecture."""

from __future__ import annotations

import errno
import platform
from dataclasses import replace

from harness.core.architecture import (
    AddressTranslation,
    Architecture,
    CompatPrograms,
    DecoderKind,
    FtraceCallInstruction,
    KprobeTraits,
    QemuMachine,
)
from harness.core.architecture_defects import S390_DEFECTS, X86_64_TRAP_HANDLERS_FUNCTIONS
from harness.core.architecture_loongarch64 import LOONGARCH64
from harness.core.architecture_mips import MIPS, MIPS64EL
from harness.core.architecture_parisc import PARISC
from harness.core.architecture_parisc64 import PARISC64
from harness.core.architecture_ppc64 import POWERPC
from harness.core.architecture_sh4 import SH4
from harness.core.architecture_sparc64 import SPARC64
from harness.core.kprobe_patch_patterns import (
    ARM64_BREAKPOINT,
    ARM_BRANCH,
    ARM_BREAKPOINT,
    RISCV_C_EBREAK,
    RISCV_EBREAK,
    S390_BREAKPOINT,
    S390_TRAMPOLINE_BRANCH,
    X86_CALL,
    X86_INT3,
    X86_JUMP,
)
from harness.core.qemu_registers import RegisterParser

# 32-bit x86; x86_64 replaces what differs.
_X86_MACHINE = QemuMachine(
    qemu="qemu-system-i386",
    machine="q35,sata=off,smbus=off,usb=off,vmport=off",  # nothing here needs these devices
    # With RDRAND the kernel has entropy at once; without it, dropbear waits a second for entropy.
    cpu="qemu32,+rdrand",
    console="ttyS0",
    nic="virtio-net-pci",
    nic_modules=("virtio_pci", "virtio_net"),
    pvh=True,
    # On a loaded host the kernel may miss a few timer ticks at boot, and then panics (check_timer(), io_apic.c, 6.1).
    kernel_arguments=("no_timer_check",),
)
_X86_KPROBES = KprobeTraits(
    breakpoints=(X86_INT3,),
    patches=(X86_INT3, X86_JUMP, X86_CALL),
    trap_offset=1,
    mid_instruction_errno=errno.EILSEQ,
    instruction_alignment=1,
    decoder=DecoderKind.X86_32,
    address_translation=AddressTranslation.QEMU,
    first_argument_pt_regs_offset=6 * 4,  # ax: -mregparm=3 (arch/x86/Makefile, 6.1)
    second_argument_pt_regs_offset=2 * 4,  # dx
    register_parser=RegisterParser(r"EIP=([0-9a-f]+)", r"EFL=([0-9a-f]+)", 0x200),
    uprobe_breakpoint=b"\xcc",
    patch_by_flag={"[OPTIMIZED]": X86_JUMP, "[FTRACE]": X86_CALL},
    ftrace_call_instruction=FtraceCallInstruction.X86_CALL,
)

ARCHITECTURES: dict[str, Architecture] = {
    entry.name: entry
    for entry in (
        Architecture(
            name="x86_64",
            elf_machine="EM_X86_64",
            debian="amd64",
            kernel_arch="x86_64",
            gnu_triplet="x86_64-linux-gnu",
            kernel_target="bzImage",
            kernel_file="arch/x86/boot/bzImage",
            word_bytes=8,
            qemu_machine=replace(
                _X86_MACHINE,
                qemu="qemu-system-x86_64",
                cpu="qemu64,+rdrand",
                disk="virtio-blk-pci",
                disk_modules=("virtio_blk", "squashfs", "overlay"),
            ),
            kprobe_traits=replace(
                _X86_KPROBES,
                decoder=DecoderKind.X86_64,
                first_argument_pt_regs_offset=14 * 8,  # di
                second_argument_pt_regs_offset=13 * 8,  # si
                register_parser=RegisterParser(r"RIP=([0-9a-f]+)", r"RFL=([0-9a-f]+)", 0x200),
                entry_landing_pad=b"\xf3\x0f\x1e\xfa",
                trap_handlers_functions=X86_64_TRAP_HANDLERS_FUNCTIONS,
                reserved_text_areas=("entry",),
            ),
            compat_programs=CompatPrograms(
                elf_machine="EM_386",
                cross_prefix="i686-linux-gnu-",
                library_directory="/usr/i686-linux-gnu/lib",
                dynamic_linker="ld-linux.so.2",
                decoder=DecoderKind.X86_32,
            ),
        ),
        Architecture(
            name="i386",
            elf_machine="EM_386",
            debian="i386",
            kernel_arch="i386",
            gnu_triplet="i686-linux-gnu",
            kernel_target="bzImage",
            kernel_file="arch/x86/boot/bzImage",
            word_bytes=4,
            qemu_machine=_X86_MACHINE,
            kprobe_traits=_X86_KPROBES,
        ),
        Architecture(
            name="arm64",
            elf_machine="EM_AARCH64",
            debian="arm64",
            kernel_arch="arm64",
            gnu_triplet="aarch64-linux-gnu",
            kernel_target="Image",
            kernel_file="arch/arm64/boot/Image",
            word_bytes=8,
            qemu_machine=QemuMachine(
                qemu="qemu-system-aarch64",
                machine="virt",
                cpu="cortex-a57",
                console="ttyAMA0",
                nic="virtio-net-pci",
                nic_modules=("virtio_pci", "virtio_net"),
                disk="virtio-blk-pci",
                disk_modules=("virtio_blk", "squashfs", "overlay"),
            ),
            kprobe_traits=KprobeTraits(
                breakpoints=(ARM64_BREAKPOINT,),
                patches=(ARM64_BREAKPOINT,),
                trap_offset=0,
                mid_instruction_errno=errno.EINVAL,
                instruction_alignment=4,
                decoder=DecoderKind.AARCH64,
                address_translation=AddressTranslation.QEMU,
                first_argument_pt_regs_offset=0,  # regs[0]
                second_argument_pt_regs_offset=8,  # regs[1]
                register_parser=RegisterParser(
                    r"PC=([0-9a-f]+)", r"PSTATE=([0-9a-f]+)", 0x80, flag_disables_interrupts=True
                ),
                ftrace_call_instruction=FtraceCallInstruction.ARM64_BL,
                reserved_text_areas=("entry", "irqentry", "idmap", "hyp", "hyp_idmap"),
                refuses_exception_table=True,
                uprobe_breakpoint=bytes.fromhex("a00020d4"),  # BRK with UPROBES_BRK_IMM
                uprobe_mid_instruction_errno=errno.EINVAL,  # arch_uprobe_analyze_insn(), arch/arm64/kernel/probes
            ),
            compat_programs=CompatPrograms(
                elf_machine="EM_ARM",
                cross_prefix="arm-linux-gnueabihf-",
                library_directory="/usr/arm-linux-gnueabihf/lib",
                dynamic_linker="ld-linux-armhf.so.3",
                # A Thumb function may start at an odd halfword, which __uprobe_register() refuses for its alignment.
                compiler_flags=("-marm",),
                # "we do not support AARCH32 instruction probing" (arch/arm64/kernel/probes/uprobes.c:40, 6.1)
                uprobe_errno=errno.EOPNOTSUPP,
            ),
        ),
        Architecture(
            name="armhf",
            elf_machine="EM_ARM",
            debian="armhf",
            kernel_arch="arm",
            gnu_triplet="arm-linux-gnueabihf",
            kernel_target="zImage",
            kernel_file="arch/arm/boot/zImage",
            word_bytes=4,
            qemu_machine=QemuMachine(
                qemu="qemu-system-arm",
                # With highmem the PCI windows are above 4 GiB, where a kernel without LPAE has no access.
                machine="virt,highmem=off",
                cpu="cortex-a15",
                console="ttyAMA0",
                nic="virtio-net-pci",
                nic_modules=("virtio_pci", "virtio_net"),
                disk="virtio-blk-pci",
                disk_modules=("virtio_blk", "squashfs", "overlay"),
            ),
            kprobe_traits=KprobeTraits(
                breakpoints=(ARM_BREAKPOINT,),
                patches=(ARM_BREAKPOINT, ARM_BRANCH),
                trap_offset=0,
                mid_instruction_errno=errno.EINVAL,
                instruction_alignment=4,
                decoder=DecoderKind.ARM,
                address_translation=AddressTranslation.QEMU,
                first_argument_pt_regs_offset=0,  # uregs[0]
                # uregs[2]: a 64-bit argument begins at an even register (AAPCS), as the offset of register_uprobe().
                second_argument_pt_regs_offset=8,
                register_parser=RegisterParser(
                    r"R15=([0-9a-f]+)", r"PSR=([0-9a-f]+)", 0x80, flag_disables_interrupts=True
                ),
                patch_by_flag={"[OPTIMIZED]": ARM_BRANCH},
                ftrace_call_instruction=FtraceCallInstruction.ARM_BL,
                # arch_within_kprobe_blacklist(), arch/arm/probes/kprobes/core.c; no arch_populate_kprobe_blacklist()
                reserved_text_areas=("entry", "irqentry", "idmap"),
                areas_missing_in_blacklist=("entry", "irqentry", "idmap"),
                # UPROBE_SWBP_ARM_INSN, arch/arm/include/asm/uprobes.h; the condition is the probed instruction's.
                uprobe_breakpoint=bytes.fromhex("f901f0e7"),
                uprobe_condition_bits=bytes.fromhex("000000f0"),
                uprobe_mid_instruction_errno=errno.EINVAL,  # arch_uprobe_analyze_insn(), arch/arm/probes/uprobes/core.c
                steps_traced_processes=False,  # no arch_has_single_step() (arch/arm/include/asm/ptrace.h, 6.1 to 7.3)
            ),
            # "Thumb not yet support" (arch_uprobe_analyze_insn(), arch/arm/probes/uprobes/core.c, 6.1).
            program_flags=("-marm",),
            static_program_flags=("-static",),  # glibc has no static-pie for ARM (rcrt1.o)
            flat_image_base_address=0xC0000000,  # PAGE_OFFSET (CONFIG_VMSPLIT_3G); the zImage has TEXT_OFFSET
        ),
        Architecture(
            name="riscv64",
            elf_machine="EM_RISCV",
            debian="riscv64",
            userland_suite="trixie",  # the first release with this port
            # binutils before 2.41 cannot write the differences of labels that DWARF 5 has as ULEB128 numbers.
            suite_compiler_flags=("-gdwarf-4",),
            kernel_arch="riscv",
            gnu_triplet="riscv64-linux-gnu",
            kernel_target="Image",
            kernel_file="arch/riscv/boot/Image",
            word_bytes=8,
            qemu_machine=QemuMachine(
                qemu="qemu-system-riscv64",
                machine="virt",
                cpu="rv64",
                console="ttyS0",
                nic="virtio-net-pci",
                nic_modules=("virtio_pci", "virtio_net"),
                disk="virtio-blk-pci",
                disk_modules=("virtio_blk", "squashfs", "overlay"),
            ),
            # All line numbers and functions are those of 6.12.
            kprobe_traits=KprobeTraits(
                breakpoints=(RISCV_EBREAK, RISCV_C_EBREAK),
                patches=(RISCV_EBREAK, RISCV_C_EBREAK),
                trap_offset=0,  # handle_break() leaves epc at the breakpoint (arch/riscv/kernel/traps.c)
                # arch_prepare_kprobe(), arch/riscv/kernel/probes/kprobes.c:77 and :80
                mid_instruction_errno=errno.EILSEQ,
                instruction_alignment=2,
                decoder=DecoderKind.RISCV,
                address_translation=AddressTranslation.QEMU,
                first_argument_pt_regs_offset=10 * 8,  # a0 (arch/riscv/include/asm/ptrace.h)
                second_argument_pt_regs_offset=11 * 8,  # a1
                # SIE of mstatus
                register_parser=RegisterParser(r"\bpc +([0-9a-f]+)", r"\bmstatus +([0-9a-f]+)", 0x2),
                ftrace_call_instruction=FtraceCallInstruction.RISCV_AUIPC_JALR,
                # arch_populate_kprobe_blacklist(), arch/riscv/kernel/probes/kprobes.c
                reserved_text_areas=("irqentry",),
                # UPROBE_SWBP_INSN, arch/riscv/include/asm/uprobes.h: c.ebreak for instructions of both sizes
                uprobe_breakpoint=bytes.fromhex("0290"),
                # __uprobe_register() demands the alignment of the breakpoint (kernel/events/uprobes.c)
                uprobe_mid_instruction_errno=errno.EINVAL,
                steps_traced_processes=False,  # no arch_has_single_step() (arch/riscv/include/asm/ptrace.h, 6.1 to 7.3)
            ),
            static_program_flags=("-static",),  # glibc 2.36 has no static-pie for RISC-V (rcrt1.o)
            flat_image_base_address=0xFFFFFFFF80000000,  # KERNEL_LINK_ADDR, arch/riscv/include/asm/pgtable.h
        ),
        PARISC,
        PARISC64,
        Architecture(
            name="s390x",
            elf_machine="EM_S390",
            debian="s390x",
            kernel_arch="s390",
            gnu_triplet="s390x-linux-gnu",
            kernel_target="bzImage",
            kernel_file="arch/s390/boot/bzImage",
            word_bytes=8,
            byte_order="big",
            qemu_machine=QemuMachine(
                qemu="qemu-system-s390x",
                machine="s390-ccw-virtio",
                cpu="max",
                console="ttysclp0",
                nic="virtio-net-ccw",
                nic_has_rom=False,
                nic_modules=("virtio_net",),  # the transport is built in (CONFIG_S390_GUEST)
                disk="virtio-blk-ccw",
                disk_modules=("virtio_blk", "squashfs", "overlay"),
            ),
            kprobe_traits=KprobeTraits(
                breakpoints=(S390_BREAKPOINT,),
                patches=(S390_BREAKPOINT, S390_TRAMPOLINE_BRANCH),
                trap_offset=2,  # kprobe_handler(), arch/s390/kernel/kprobes.c: the PSW is past the breakpoint
                trap_offset_by_flag={"[FTRACE]": 0},  # kprobe_ftrace_handler(), arch/s390/kernel/ftrace.c
                mid_instruction_errno=errno.EINVAL,  # arch_prepare_kprobe()
                instruction_alignment=2,
                decoder=DecoderKind.S390,
                address_translation=AddressTranslation.QEMU,
                first_argument_pt_regs_offset=8 + 16 + 2 * 8,  # args[1], psw, then gprs[2]
                second_argument_pt_regs_offset=8 + 16 + 3 * 8,
                # The mask of external interrupts, which the timer is one of (PSW_MASK_EXT).
                register_parser=RegisterParser(
                    r"PSW=mask [0-9a-f]+ addr ([0-9a-f]+)", r"PSW=mask ([0-9a-f]+)", 0x0100000000000000
                ),
                patch_by_flag={"[FTRACE]": S390_TRAMPOLINE_BRANCH},
                ftrace_call_instruction=FtraceCallInstruction.S390_TRAMPOLINE,
                reserved_text_areas=("irqentry",),  # arch_populate_kprobe_blacklist(), arch/s390/kernel/kprobes.c
                uprobe_breakpoint=bytes.fromhex("0002"),  # UPROBE_SWBP_INSN, arch/s390/include/asm/uprobes.h
                # __uprobe_register(): an odd offset. An even one inside an instruction is accepted, because
                # arch_uprobe_analyze_insn() looks only at the instruction that would begin there.
                uprobe_mid_instruction_errno=errno.EINVAL,
                # kprobes_insn_page, one page of 4 KiB, has the copies of 6 bytes (alloc_s390_insn_page(),
                # arch/s390/kernel/kprobes.c, 6.1). Another one is refused with ENOMEM.
                most_kprobes_in_kernel_text=4096 // 6,
                defects=S390_DEFECTS,
            ),
            static_program_flags=("-static",),  # Debian's glibc 2.36 has no static-pie for s390x (rcrt1.o)
        ),
        LOONGARCH64,
        MIPS,
        MIPS64EL,
        *POWERPC,
        SH4,
        SPARC64,
    )
}


def host_architecture_name() -> str:
    """Return the host's name in the table, or what `uname -m` prints on a host that the table does not have."""
    return next((row.name for row in ARCHITECTURES.values() if row.native), platform.machine())
