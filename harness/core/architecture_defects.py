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
        Symptom.TRAPS_FOR_EVER, f"{_PARISC_FALLS_THROUGH}: execution runs past the end of the function, into zeros"
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
        Symptom.TRAPS_FOR_EVER,
        "arch/parisc/kernel/kprobes.c:35 (6.1): the stepped instruction nullifies the second break and the CPU runs "
        "into the next instruction slot",
    ),
    "nested": Defect(
        Symptom.TRAPS_FOR_EVER,
        "arch/parisc/kernel/kprobes.c:149 (6.1): after a nested probe's step the handler returns without advancing "
        "iaoq, and line 143 skips the same break again and again",
    ),
    "trap-entry": Defect(
        Symptom.TRAPS_FOR_EVER,
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
