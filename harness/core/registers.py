"""How a CPU's registers read in what QEMU's monitor answers to `info registers`."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Registers:
    """Patterns whose first group is hexadecimal: where the program counter stands, and the word with a flag for
    interrupts (target/*/cpu.c and helper.c, QEMU 7.2).

    `flag` is that flag; set, it lets interrupts in, or, `masks`, keeps them out.
    """

    program_counter: str
    status: str
    flag: int
    masks: bool = False

    def counters(self, text: str) -> list[int]:
        """The program counter of each CPU in the answer."""
        return [int(found, 16) for found in re.findall(self.program_counter, text)]

    def interruptible(self, text: str) -> list[bool]:
        """Does each CPU in the answer take interrupts?"""
        return [bool(int(found, 16) & self.flag) is not self.masks for found in re.findall(self.status, text)]
