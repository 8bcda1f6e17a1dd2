"""One machine instruction as a probe sees it: where it starts, and what it does to the line of execution."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Flow(Enum):
    """What an instruction does to the line of execution."""

    PLAIN = "plain"
    """The next one follows."""
    NOP = "nop"
    """The next one follows, unless the kernel made this a jump (a static key) or a call (ftrace)."""
    SKIPS = "skips"
    """The next one may be left out (parisc: nullified)."""
    REFUSED = "refused"
    """The next one follows, but the kernel lets no probe stand here."""
    ENDS = "ends"
    """The line ends: a branch, a call, a return, a trap."""
    COMPUTED = "computed"
    """The line ends in a jump to a place that only a register knows."""
    UNKNOWN = "unknown"
    """No instruction is known for these bytes."""


class InstructionKind(Enum):
    """What an instruction is for, where a probe on it may go wrong in a way of its own."""

    OTHER = "other"
    CONDITIONAL = "conditional"
    """A branch, taken or not."""
    JUMP = "jump"
    CALL = "call"
    RETURN = "return"
    LONE_RETURN = "lone-return"
    """A return that nullifies its delay slot."""
    THROUGH_MEMORY = "through-memory"
    """A call of, or a jump to, an address that is read from memory, which x86 does not step (EOPNOTSUPP)."""
    SKIP = "skip"
    """It may nullify the next one."""


class Instruction(NamedTuple):
    """One instruction of a function.

    `offset` and `size` are in bytes from the function's start; `target` is the offset that a direct branch goes to,
    which may lie outside of the function, None for any other instruction; `padding` is true for what stands between
    functions, too: nops, traps, zeros.
    """

    offset: int
    size: int
    flow: Flow
    target: int | None = None
    padding: bool = False
    kind: InstructionKind = InstructionKind.OTHER

    @property
    def end(self) -> int:
        """The offset behind its last byte."""
        return self.offset + self.size
