"""What a kernel writes at a probed address: breakpoints, jumps and calls; a part of the table of architectures."""

from __future__ import annotations

from harness.core.architecture import PatchPattern

# int3; a jump if optimized (arch/x86/kernel/kprobes/opt.c); a call if the probe is on ftrace's site.
X86_INT3, X86_JUMP, X86_CALL = PatchPattern(b"\xcc", 1), PatchPattern(b"\xe9", 5), PatchPattern(b"\xe8", 5)
ARM64_BREAKPOINT = PatchPattern(bytes.fromhex("800020d4"), 4)
PARISC_BREAKPOINT = PatchPattern(bytes.fromhex("03ff801f"), 4)
# KPROBE_ARM_BREAKPOINT_INSTRUCTION, and a branch if optimized, each with the condition of the probed instruction
# (arch_arm_kprobe(), arch/arm/probes/kprobes/core.c; arch_optimize_kprobes(), opt-arm.c; 6.1).
ARM_BREAKPOINT = PatchPattern(bytes.fromhex("f801f007"), 4, mask=bytes.fromhex("ffffff0f"))
ARM_BRANCH = PatchPattern(bytes.fromhex("0000000a"), 4, mask=bytes.fromhex("0000000f"))
# BREAKPOINT_INSTRUCTION, whatever the instruction's length (swap_instruction(), arch/s390/kernel/kprobes.c), and the
# BRCL that a probe on ftrace's site makes unconditional (ftrace_patch_branch_mask(), ftrace.c; 6.1).
S390_BREAKPOINT = PatchPattern(bytes.fromhex("0002"), 2)
S390_TRAMPOLINE_BRANCH = PatchPattern(bytes.fromhex("c0f4"), 2)
# __BUG_INSN_32 and __BUG_INSN_16, by the size of the probed instruction (arch_arm_kprobe(),
# arch/riscv/kernel/probes/kprobes.c; arch/riscv/include/asm/bug.h; 6.12).
RISCV_EBREAK, RISCV_C_EBREAK = PatchPattern(bytes.fromhex("73001000"), 4), PatchPattern(bytes.fromhex("0290"), 2)
# BREAKPOINT_INSTRUCTION (arch/powerpc/include/asm/probes.h), an optimized probe's `b` (arch_optimize_kprobes(),
# arch/powerpc/kernel/optprobes.c), and ftrace's `bl` (__ftrace_make_call(), trace/ftrace.c; 6.1).
PPC_TRAP = PatchPattern(bytes.fromhex("0800e07f"), 4)
PPC_BRANCH = PatchPattern(bytes.fromhex("00000048"), 4, mask=bytes.fromhex("030000fc"))
PPC_CALL = PatchPattern(bytes.fromhex("01000048"), 4, mask=bytes.fromhex("030000fc"))
PPC_TRAP_BIG = PatchPattern(bytes.fromhex("7fe00008"), 4)
PPC_BRANCH_BIG = PatchPattern(bytes.fromhex("48000000"), 4, mask=bytes.fromhex("fc000003"))
# BREAK with the code BRK_KPROBE_BP (breakpoint_insn, arch/mips/kernel/kprobes.c; uapi/asm/break.h; 6.1), and a uprobe's
# with UPROBE_BRK_UPROBE (arch/mips/include/asm/uprobes.h).
MIPS_BREAKPOINT, MIPS_UPROBE_BREAKPOINT = 0x000080CD, 0x000D000D
# BREAKPOINT_INSTRUCTION, `ta 0x70` (arch/sparc/include/asm/kprobes.h, 6.1).
SPARC_TRAP = PatchPattern(bytes.fromhex("91d02070"), 4)
# BREAKPOINT_INSTRUCTION, `trapa #0x3a` (arch/sh/include/asm/kprobes.h, 6.1).
SUPERH_TRAP = PatchPattern(bytes.fromhex("3ac3"), 2)
# BREAK with the code BRK_KPROBE_BP (uapi/asm/break.h), and ftrace's BL after the MOVE t0,ra that it wrote at boot
# (ftrace_init_nop(), ftrace_make_call(), arch/loongarch/kernel/ftrace_dyn.c; 6.12).
LOONGARCH_BREAKPOINT = PatchPattern(bytes.fromhex("0a002a00"), 4)
LOONGARCH_CALL = PatchPattern(bytes.fromhex("2c00150000000054"), 8, mask=bytes.fromhex("ffffffff000000fc"), unchanged=4)
