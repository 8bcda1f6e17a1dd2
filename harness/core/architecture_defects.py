"""The kinds of instruction that a kernel, or its emulator, single-steps wrong; a part of the table of architectures."""

from __future__ import annotations

from harness.core.single_step_defect_types import Defect, Symptom

# arch/parisc/kernel/kprobes.c single-steps a copy of the instruction with a second break after it. The handler of that
# break decides where execution continues. Line numbers are those of 6.1.
_PARISC_FALLS_THROUGH = (
    "arch/parisc/kernel/kprobes.c:161 (6.1): the switch looks at regs->iir, which holds the second break, never the "
    "stepped branch, so line 172 continues after the branch"
)
# `or r0,r0,r0`. The instruction in the delay slot follows it, as it follows a branch that is skipped.
_PARISC_NOP = bytes.fromhex("08000240")
PARISC_DEFECTS = {
    "conditional": Defect(Symptom.WRONG_RESULT, f"{_PARISC_FALLS_THROUGH}: a taken branch falls through", _PARISC_NOP),
    "call": Defect(Symptom.WRONG_RESULT, f"{_PARISC_FALLS_THROUGH}: a call is skipped", _PARISC_NOP),
    "jump": Defect(Symptom.WRONG_RESULT, f"{_PARISC_FALLS_THROUGH}: a jump falls through", _PARISC_NOP),
    "return": Defect(
        Symptom.TRAPS_WITHOUT_END, f"{_PARISC_FALLS_THROUGH}: execution runs past the end of the function, into zeros"
    ),
    "return-into-next-function": Defect(
        Symptom.WRONG_RESULT, f"{_PARISC_FALLS_THROUGH}: execution runs on into the next function", _PARISC_NOP
    ),
    "lone-return": Defect(
        Symptom.SAME_RESULT_HITS_MISSED,
        "arch/parisc/kernel/kprobes.c:35 (6.1): the stepped branch nullifies the second break, so line 177 never calls "
        "reset_current_kprobe() and line 100 takes every later hit for a nested one",
    ),
    "skip": Defect(
        Symptom.TRAPS_WITHOUT_END,
        "arch/parisc/kernel/kprobes.c:35 (6.1): the stepped instruction nullifies the second break and the CPU runs "
        "into the next instruction slot",
    ),
    "nested": Defect(
        Symptom.TRAPS_WITHOUT_END,
        "arch/parisc/kernel/kprobes.c:149 (6.1): after a nested probe's step the handler returns without advancing "
        "iaoq, and line 143 skips the same break again and again",
    ),
    "trap-entry": Defect(
        Symptom.TRAPS_WITHOUT_END,
        "arch/parisc/kernel/traps.c:468 (6.1): handle_interruption(), which handles every trap, is on no blacklist, so "
        "that a probe there is accepted, and its break calls the function again, until the stack fills the memory",
        hangs_in=(
            "handle_interruption",
            "fault_vector_11",
            "intr_save",
            "intr_save2",
            "skip_save_ior",
            # The stack grows into pages that the TLB does not have.
            "dtlb_miss_11",
            "dtlb_check_alias_11",
        ),
    ),
}

# The emulator's, not the kernel's: PER is the single step of s390. Seen with QEMU 11.1; with KVM it is not expected.
_S390_EMULATOR = (
    "target/s390x/tcg/translate.c:help_branch() (QEMU 11.1): a conditional branch leaves the translated block before "
    "per_check_exception(), so the step's event comes one instruction late: the CPU runs the zeros around the copy"
)
S390_DEFECTS = {
    kind: Defect(Symptom.KILLED_BY_OOPS, _S390_EMULATOR, oops="illegal operation: 0001")
    for kind in ("conditional", "conditional-not-taken")
}

# Only a kernel with KASAN has these functions. Those of other sizes can be probed on x86_64: probes on them get jumps
# before anything that a breakpoint runs calls them.
_KASAN = (
    "mm/kasan/generic.c:186 and 240, shadow.c:29 (6.1): the code that handles a breakpoint is instrumented and calls "
    "this function, which is on no blacklist, so that each hit hits the probe again"
)
X86_64_TRAP_HANDLERS_FUNCTIONS = {
    **{f"__asan_{access}{alias}": _KASAN for access in ("load4", "load8", "store8") for alias in ("", "_noabort")},
    "__kasan_check_read": _KASAN,
    "kasan_check_range": _KASAN,
}

PPC_TRAP_HANDLERS_FUNCTIONS = {
    "interrupt_enter_prepare": (
        "arch/powerpc/include/asm/interrupt.h:152 (6.1): gcc makes a function of the inline interrupt_enter_prepare() "
        "in traps.c, which program_check_exception() calls and which NOKPROBE_SYMBOL() does not name"
    ),
    "check_return_regs_valid": (
        "arch/powerpc/kernel/interrupt.c:98 (6.1): every return from a trap calls check_return_regs_valid(), which is "
        "on no blacklist, so that the return from the probe's own trap hits the probe again, until the stack overflows"
    ),
}

# The instruction in the delay slot of a probed branch is stepped in a copy, except for a nop, which is skipped.
_MIPS_SKIPPED_SLOT = (
    "arch/mips/kernel/kprobes.c:361 (6.1 to 7.3): after a branch with a nop in its delay slot kprobe_handler() does "
    "not call reset_current_kprobe(), so that every later probe on this CPU is taken for a nested one"
)
MIPS_DEFECTS = {
    **{
        f"{kind}-before-nop": Defect(Symptom.SAME_RESULT_HITS_MISSED, _MIPS_SKIPPED_SLOT, ends_probing=True)
        for kind in ("call", "conditional", "jump", "return")
    },
    "nested-twice": Defect(
        Symptom.KILLED_BY_OOPS,
        "arch/mips/kernel/genex.S:561 (6.1 to 7.3): the handler of a breakpoint runs with interrupts enabled, and "
        "kprobes.c:162 keeps the state of one nested probe only, so that a hit in a softirq and one in an interrupt "
        "lose the probe that they interrupt",
        oops="Break instruction in kernel code",
    ),
    "task-freed": Defect(
        Symptom.KILLED_BY_OOPS,
        "arch/mips/kernel/genex.S:561 (6.1 to 7.3): the handler of a breakpoint runs with interrupts enabled, and a "
        "softirq that frees a task, kernel/exit.c:227, forgets the probe: kprobe_busy_end(), kernel/kprobes.c:1253",
        oops="Break instruction in kernel code",
    ),
}
MIPS_TAKES_MISALIGNED = (
    "arch/mips/kernel/kprobes.c:74 (6.1 to 7.3): arch_prepare_kprobe() does not look at the alignment of the address, "
    "so that a probe inside an instruction is accepted, and overwrites parts of two instructions"
)
# None of them has NOKPROBE_SYMBOL(), and arch/mips has no list of its own.
MIPS_TRAP_HANDLERS_FUNCTIONS = {
    name: f"{place} (6.1 to 7.3): {name}() handles the breakpoint of every probe, and is on no blacklist"
    for name, place in {
        "__compute_return_epc_for_insn": "arch/mips/kernel/branch.c:422",
        "do_bp": "arch/mips/kernel/traps.c:1027",
        "handle_bp": "arch/mips/kernel/genex.S:561",
        "prepare_singlestep": "arch/mips/kernel/kprobes.c:235",
    }.items()
}
