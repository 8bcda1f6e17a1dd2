"""Parser of CPU registers in the output of `info registers` of QEMU's monitor."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class RegisterParser:
    """Patterns of the program counter and of the status word with the interrupt flag, each with a hexadecimal group 1.

    `interrupt_flag_bit` is the bit of the interrupt flag in `status_word_pattern`. A set bit enables interrupts, or
    disables them if `flag_disables_interrupts` is true. Source: target/*/cpu.c and helper.c, QEMU 7.2.
    """

    program_counter_pattern: str
    status_word_pattern: str
    interrupt_flag_bit: int
    flag_disables_interrupts: bool = False

    def parse_program_counters(self, text: str) -> list[int]:
        """Return the program counter of each CPU in the output."""
        return [int(found, 16) for found in re.findall(self.program_counter_pattern, text)]

    def parse_interrupt_flags(self, text: str) -> list[bool]:
        """Return, for each CPU in the output, whether the CPU takes interrupts."""
        return [
            bool(int(found, 16) & self.interrupt_flag_bit) is not self.flag_disables_interrupts
            for found in re.findall(self.status_word_pattern, text)
        ]
