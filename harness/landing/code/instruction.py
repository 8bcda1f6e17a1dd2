"""One machine instruction as it matters to a probe: where it starts, and its effect on the flow of control."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Flow(Enum):
    """The effect of an instruction on the flow of control."""

    PLAIN = "plain"
    """The next instruction runs after it."""
    NOP = "nop"
    """The next instruction runs after it, unless the kernel has made it a jump (static key) or a call (ftrace)."""
    SKIPS = "skips"
    """The next instruction may be skipped (parisc: nullified)."""
    REFUSED = "refused"
    """The next instruction runs after it, but the kernel refuses a probe on it."""
    ENDS = "ends"
    """The next instruction need not run after it: a branch, a call, a return, a trap."""
    COMPUTED = "computed"
    """A jump to an address that is in a register."""
    EXCLUSIVE = "exclusive"
    """It is between an exclusive load and its store. The kernel accepts a probe on it, but with one the store never
    succeeds, because the exception of the probe clears the CPU's monitor (ARM; arm64 refuses such a probe)."""
    JUMPED_OVER = "jumped-over"
    """It belongs to ftrace's code in a module, over which the kernel has made a branch. The kernel accepts a probe on
    it, which is never hit (MIPS)."""
    WRITTEN_BY_FTRACE = "written-by-ftrace"
    """The next instruction runs after it, and ftrace writes its call here, after it has checked what is there. The
    kernel accepts a probe on it, with which ftrace's check fails and ftrace ends (LoongArch)."""
    UNKNOWN = "unknown"
    """The bytes cannot be decoded, or are data."""


class InstructionKind(Enum):
    """The purpose of an instruction, if a probe on it can fail in a particular way."""

    OTHER = "other"
    CONDITIONAL = "conditional"
    """A branch, taken or not."""
    JUMP = "jump"
    CALL = "call"
    RETURN = "return"
    LONE_RETURN = "lone-return"
    """A return that nullifies its delay slot."""
    THROUGH_MEMORY = "through-memory"
    """A call or a jump to an address that is read from memory; x86 does not step it (EOPNOTSUPP)."""
    SKIP = "skip"
    """It may nullify the next instruction."""
    ANNULLING = "annulling"
    """A branch whose delay slot runs only if it is taken (SPARC; MIPS: a likely branch)."""
    LONE_JUMP = "lone-jump"
    """A jump that annuls its delay slot (SPARC)."""
    DELAY_SLOT = "delay-slot"
    """It runs before the branch that precedes it takes effect (SPARC, SuperH; MIPS, which refuses a probe on it).
    PA-RISC steps it as any other instruction, and there it is OTHER."""
    CONDITIONAL_ON_REGISTER = "conditional-on-register"
    """A branch that compares a register with zero (SPARC), taken or not."""
    BACKWARD_CONDITIONAL = "backward-conditional"
    """A conditional branch back, whose distance the kernel takes for one ahead when it is probed (SuperH)."""
    TAKEN_FOR_RETURN = "taken-for-return"
    """The kernel takes it for a return when it is probed, which it is not (SuperH)."""
    STACK_STORE = "stack-store"
    """It makes a stack frame and stores the old stack pointer there, which the kernel of PowerPC emulates in part."""


class Instruction(NamedTuple):
    """One instruction of a function.

    `offset` is in bytes from the function's start, `size` in bytes. `target` is the offset that a direct branch goes
    to, which may be outside of the function; None for any other instruction. `is_padding` is true for instructions that
    also occur between functions: nops, traps, zeros. `is_conditional` is true if the kernel calls a probe's handler
    only when the condition in the instruction holds (kprobe_handler(), arch/arm/probes/kprobes/core.c, 6.1).
    """

    offset: int
    size: int
    flow: Flow
    target: int | None = None
    is_padding: bool = False
    kind: InstructionKind = InstructionKind.OTHER
    is_conditional: bool = False

    @property
    def end(self) -> int:
        """The offset of the first byte after the instruction."""
        return self.offset + self.size
