"""The canary of QEMU's r2d board."""

from __future__ import annotations

import struct

# The address at which QEMU puts the program and starts the CPU (hw/sh4/r2d.c), not translated and not cached; the
# places of the text and of the handler of exceptions, which is 0x100 past the address in VBR.
_BASE, _TEXT, _HANDLER = 0xAC800000, 0x40, 0x200


def sh4_canary_program(text: bytes) -> bytes:
    """Return a program that hits the breakpoint of kprobes, prints `text` on the serial port, and ends QEMU.

    It prints nothing unless the handler of the breakpoint runs. The text is shorter than the distance to the handler.
    """
    program = (
        0xD00B,  # mov.l vectors, r0
        0x402E,  # ldc r0, vbr
        0xD00B,  # mov.l status, r0
        0x400E,  # ldc r0, sr
        0xE800,  # mov #0, r8
        0xC33A,  # trapa #0x3a
        0xD10A,  # mov.l port, r1
        0xC70C,  # mova text, r0
        0x6203,  # mov r0, r2
        0x2888,  # tst r8, r8
        0x8906,  # bt done
        0x6324,  # next: mov.b @r2+, r3
        0x2338,  # tst r3, r3
        0x8903,  # bt done
        0x6033,  # mov r3, r0
        0x801C,  # mov.b r0, @(12, r1)
        0xAFF9,  # bra next
        0x0009,  # nop
        0xD105,  # done: mov.l power, r1
        0xE001,  # mov #1, r0
        0x8110,  # mov.w r0, @(0, r1)
        0xAFFE,  # halt: bra halt
        0x0009,  # nop
        0x0009,  # nop
    )
    constants = (
        _BASE + _HANDLER - 0x100,  # vectors
        0x400000F0,  # status: privileged, and exceptions are not blocked, as they are after a reset
        0xFFE80000,  # port: SCIF, with the transmit data 12 bytes farther
        0xA4000030,  # power: PA_POWOFF of the board's FPGA
    )
    handler = (
        0xE801,  # mov #1, r8
        0x002B,  # rte
        0x0009,  # nop
    )
    rom = bytearray(_HANDLER + 2 * len(handler))
    struct.pack_into(f"<{len(program)}H{len(constants)}I", rom, 0, *program, *constants)
    struct.pack_into(f"<{len(handler)}H", rom, _HANDLER, *handler)
    rom[_TEXT : _TEXT + len(text)] = text
    return bytes(rom)
