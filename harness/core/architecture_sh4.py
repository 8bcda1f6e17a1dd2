"""The entry of 32-bit little-endian SuperH; a part of the table of architectures."""

from __future__ import annotations

from harness.core.architecture import AddressTranslation, Architecture, DecoderKind, KprobeTraits, QemuMachine
from harness.core.kprobe_patch_patterns import SUPERH_TRAP
from harness.core.qemu_registers import RegisterParser
from harness.core.single_step_defect_types import Defect, Symptom

# arch/sh/kernel/kprobes.c writes the probed instruction back and a second trap where it expects the CPU to go. Until
# that is hit, the probe is not armed. All line numbers and functions are those of 6.1; 7.3 has the same code.
_DEFECTS = {
    "backward-conditional": Defect(
        Symptom.HITS_LOST,
        "arch/sh/kernel/kprobes.c:169 (6.1): prepare_singlestep() takes the distance of the branch for a number "
        "without sign, so that the second trap is not reached where the branch is taken",
    ),
    "taken-for-return": Defect(
        Symptom.HITS_LOST,
        "arch/sh/kernel/kprobes.c:37 (6.1): OPCODE_RTS() compares four bits of an instruction, so that the second trap "
        "is at the return address of the function",
    ),
    "delay-slot": Defect(
        Symptom.TRAPS_AT_PROBE,
        "arch/sh/kernel/traps_32.c:703 (6.1): do_illegal_slot_inst() takes the registers of user mode for those of the "
        "exception, so that it finds no probe at the branch, and the branch runs again",
    ),
}
# None of them has NOKPROBE_SYMBOL(), and arch/sh has no list of its own.
_TRAP_HANDLERS_FUNCTIONS = {
    name: f"{place} (6.1): {name}() runs for the breakpoint of every probe, and is on no blacklist"
    for name, place in {
        "debug_trap_handler": "arch/sh/kernel/traps.c:133",
        "flush_icache_range": "arch/sh/mm/cache.c:224",
        "sh4_flush_icache_range": "arch/sh/mm/cache-sh4.c:40",
    }.items()
}

SH4 = Architecture(
    name="sh4",
    elf_machine="EM_SH",
    debian=None,
    # Debian 12's compiler for SuperH leaves out compares (docs/findings.md).
    cross_tools_suite="trixie",
    cross_tools_compiler="gcc-14",
    kernel_arch="sh",
    gnu_triplet="sh4-linux-gnu",
    kernel_target="zImage",
    kernel_file="arch/sh/boot/zImage",
    word_bytes=4,
    qemu_machine=QemuMachine(
        qemu="qemu-system-sh4",
        machine="r2d",
        cpu="",
        console="ttySC1",
        nic="virtio-net-pci",
        nic_modules=(),
        one_cpu_because="QEMU's r2d has one CPU",
        console_port=1,
        console_bytes_at_once=8,  # half of the FIFO of sh_serial_receive1(), hw/char/sh_serial.c, QEMU 7.2 and 11.1
        # "State blocked by non-migratable device 'cpu'", QEMU 7.2 and 11.1
        cannot_save_because="QEMU has no description of the state of a SuperH CPU",
    ),
    kprobe_traits=KprobeTraits(
        breakpoints=(SUPERH_TRAP,),
        patches=(SUPERH_TRAP,),
        trap_offset=0,  # BUILD_TRAP_HANDLER(debug), arch/sh/kernel/traps.c: pc is moved back to the trap
        mid_instruction_errno=0,
        takes_misaligned=(
            "arch/sh/kernel/kprobes.c:40 (6.1 to 7.3): arch_prepare_kprobe() does not look at the alignment of the "
            "address, so that a probe inside an instruction is accepted, and overwrites parts of two instructions"
        ),
        instruction_alignment=2,
        decoder=DecoderKind.SUPERH,
        address_translation=AddressTranslation.SUPERH_TABLES,
        first_argument_pt_regs_offset=4 * 4,  # regs[4] (arch/sh/include/uapi/asm/ptrace_32.h)
        second_argument_pt_regs_offset=5 * 4,
        # Linux disables interrupts by their level, IMASK (arch/sh/kernel/irq_32.c).
        register_parser=RegisterParser(
            r"\bpc=0x([0-9a-f]+)", r"\bsr=0x([0-9a-f]+)", 0xF0, flag_disables_interrupts=True
        ),
        trap_handlers_functions=_TRAP_HANDLERS_FUNCTIONS,
        defects=_DEFECTS,
    ),
    # asm/page.h and linux/cache.h define ARCH_DMA_MINALIGN, the second one only if it is not yet defined (6.1.192).
    module_flags=("-include asm/page.h",),
    static_program_flags=("-static",),
)
