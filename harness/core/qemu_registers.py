"""Parser of CPU registers in the output of `info registers` of QEMU's monitor."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Registers:
    """Patterns of the program counter and of the status word with the interrupt flag, each with a hexadecimal group 1.

    `flag` is the bit of the interrupt flag in `status`. A set bit enables interrupts, or disables them if `masks` is
    true. Source: target/*/cpu.c and helper.c, QEMU 7.2.
    """

    program_counter: str
    status: str
    flag: int
    masks: bool = False

    def counters(self, text: str) -> list[int]:
        """Return the program counter of each CPU in the output."""
        return [int(found, 16) for found in re.findall(self.program_counter, text)]

    def interruptible(self, text: str) -> list[bool]:
        """Return, for each CPU in the output, whether the CPU takes interrupts."""
        return [bool(int(found, 16) & self.flag) is not self.masks for found in re.findall(self.status, text)]
