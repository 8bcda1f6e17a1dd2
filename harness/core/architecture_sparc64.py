"""The entry of 64-bit SPARC; a part of the table of architectures."""

from __future__ import annotations

import errno

from harness.core.architecture import AddressTranslation, Architecture, DecoderKind, KprobeTraits, QemuMachine
from harness.core.kprobe_patch_patterns import SPARC_TRAP
from harness.core.qemu_registers import RegisterParser
from harness.core.single_step_defect_types import Defect, Symptom

# arch/sparc/kernel/kprobes.c single-steps a copy of the instruction with a second trap after it. Execution continues
# where the handler of that trap decides. All line numbers and functions are those of 6.1; 7.3 has the same code.
_NOP = bytes.fromhex("01000000")
_ILLEGAL = "Kernel illegal instruction"
_NO_TRAP = (
    "arch/sparc/kernel/kprobes.c:58 (6.1): the second trap is in the delay slot of the copied branch, which is annulled"
)
_DEFECTS = {
    "annulling": Defect(
        Symptom.KILLED_BY_OOPS, f"{_NO_TRAP} if it is not taken: the CPU runs what follows the copy", oops=_ILLEGAL
    ),
    "lone-jump": Defect(Symptom.KILLED_BY_OOPS, f"{_NO_TRAP}: the CPU jumps from the copy", oops=_ILLEGAL),
    "conditional-on-register": Defect(
        Symptom.KILLED_BY_OOPS,
        "arch/sparc/kernel/kprobes.c:213 (6.1): relbranch_fixup() does not handle branches on a register, so a taken "
        "one goes to its distance from the copy",
        oops=_ILLEGAL,
    ),
    "delay-slot": Defect(
        Symptom.WRONG_RESULT,
        "arch/sparc/kernel/kprobes.c:207 (6.1): relbranch_fixup() treats the instruction of a delay slot as a branch "
        "that is not taken: the first instruction of the target runs, and then the second one after the delay slot",
        _NOP,
        skips=(-4, 4),
    ),
}
# None of them has NOKPROBE_SYMBOL(), and arch/sparc has no list of its own. Each trap level is one hit in another.
_TRAP_HANDLERS_FUNCTIONS = {
    name: f"arch/sparc/kernel/{place} (6.1 to 7.3): each trap runs {name}, also that of a probe there, which is on no "
    "blacklist, until no trap level is left and the CPU enters its error state"
    for name, place in {
        "etrap": "etrap_64.S:32",
        "etrap_save": "etrap_64.S:91",
        "kern_rtt": "rtrap_64.S:304",
        "rtrap": "rtrap_64.S:113",
        "to_kernel": "rtrap_64.S:312",
    }.items()
}

SPARC64 = Architecture(
    name="sparc64",
    elf_machine="EM_SPARCV9",
    debian=None,
    kernel_arch="sparc64",
    byte_order="big",
    gnu_triplet="sparc64-linux-gnu",
    kernel_target="vmlinux",
    kernel_file="vmlinux",
    word_bytes=8,
    qemu_machine=QemuMachine(
        qemu="qemu-system-sparc64",
        machine="sun4u,graphics=off",  # so that the firmware, too, writes to the serial port
        cpu="",
        console="ttyS0",
        nic="virtio-net-pci,bus=pciB",  # the root bus has no room (slot_reserved_mask, hw/sparc64/sun4u.c, QEMU 7.2)
        nic_modules=(),
        # OpenBIOS's "boot" returns, for which machine_restart() (arch/sparc/kernel/reboot.c) panics again, without end.
        kernel_arguments=("panic=0",),
        one_cpu_because="QEMU's sun4u has one CPU",
        # 7.2 divides by zero when it saves a guest whose pages (8 KiB) are larger than the host's. A guest that 11.1
        # has saved and loaded does not respond at its console.
        cannot_save_because="QEMU 7.2 ends with SIGFPE, and a guest that 11.1 has loaded does not respond",
        # sparc_cpu_do_interrupt(), target/sparc/int64_helper.c (QEMU 7.2). A real machine resets itself (RED_state).
        cpu_error_state="while trap level (5) >= MAXTL (5), Error state",
    ),
    kprobe_traits=KprobeTraits(
        breakpoints=(SPARC_TRAP,),
        patches=(SPARC_TRAP,),
        trap_offset=0,  # kprobe_handler(), arch/sparc/kernel/kprobes.c:119: tpc is at the trap
        mid_instruction_errno=errno.EILSEQ,  # arch_prepare_kprobe(), kprobes.c:52
        instruction_alignment=4,
        decoder=DecoderKind.SPARC,
        address_translation=AddressTranslation.SPARC64_TABLES,
        first_argument_pt_regs_offset=8 * 8,  # u_regs[8], %i0 (arch/sparc/include/uapi/asm/ptrace.h)
        second_argument_pt_regs_offset=9 * 8,
        # Linux disables interrupts by their level, PIL (arch/sparc/include/asm/irqflags_64.h).
        register_parser=RegisterParser(r"\bpc: ([0-9a-f]+)", r"\bpil: ([0-9a-f]+)", 0xF, flag_disables_interrupts=True),
        defects=_DEFECTS,
        trap_handlers_functions=_TRAP_HANDLERS_FUNCTIONS,
        uprobe_breakpoint=bytes.fromhex("91d02073"),  # UPROBE_SWBP_INSN, arch/sparc/include/asm/uprobes.h
        uprobe_mid_instruction_errno=errno.EINVAL,  # __uprobe_register(): the alignment of the breakpoint
        steps_traced_processes=False,  # no arch_has_single_step() (arch/sparc/include/asm/ptrace.h, 6.1 to 7.3)
    ),
    static_program_flags=("-static",),
    bug_prints_place=True,  # do_BUG(), arch/sparc/kernel/traps_64.c, with CONFIG_DEBUG_BUGVERBOSE
    errnos={45: errno.EOPNOTSUPP, 122: errno.EILSEQ},  # arch/sparc/include/uapi/asm/errno.h
)
