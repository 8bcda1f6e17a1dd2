"""The canary of QEMU's sun4u machine."""

from __future__ import annotations

import struct

# Where the CPU starts, the code, the text, and the entry of `ta 0x70` in a table of traps. The address of that table
# is a multiple of 32 KiB.
_START, _CODE, _TEXT, _TABLE = 0x20, 0x40, 0x200, 0x8000
_HANDLER = _TABLE + (0x170 << 5)


def sparc64_canary_program(text: bytes) -> bytes:
    """Return a program that hits the breakpoint of kprobes, prints `text` on the serial port, and ends QEMU.

    It prints nothing unless the handler of the breakpoint runs. The serial port and the switch of the power are I/O
    ports behind a PCI bridge (hw/sparc64/sun4u.c and hw/pci-bridge/simba.c, QEMU 7.2), which forwards nothing after a
    reset.
    """
    start = (
        0x8F902000,  # wrpr 0, %tl: as after a trap has been handled
        0xA3414000,  # rd %pc, %l1
        0x03000020,  # sethi %hi(0x8000), %g1
        0xA22C6024,  # andn %l1, 0x24, %l1: this firmware
        0x82044001,  # add %l1, %g1, %g1
        0x8B906000,  # wrpr %g1, 0, %tba
        0x10800002,  # b code
        0x8D902004,  # wrpr 4, %pstate: privileged, and not in the state of a reset
    )
    code = (
        0x821021FE,  # mov 0x1fe, %g1
        0x83287020,  # sllx %g1, 32, %g1: the host bridge, by its physical address
        0x05004002,  # sethi %hi(0x1000800), %g2
        0x8410A100,  # or %g2, 0x100, %g2: the configuration of device 1, function 1
        0x84004002,  # add %g1, %g2, %g2
        0x86102001,  # mov 1, %g3
        0xC628A004,  # stb %g3, [%g2 + 4]: its command enables I/O
        0xC028A01C,  # stb %g0, [%g2 + 0x1c]: the first port that it forwards
        0x861020F0,  # mov 0xf0, %g3
        0xC628A01D,  # stb %g3, [%g2 + 0x1d]: the last one
        0x05008000,  # sethi %hi(0x2000000), %g2
        0x82004002,  # add %g1, %g2, %g1: port 0
        0xA0100000,  # clr %l0
        0x91D02070,  # ta 0x70
        0x02C40007,  # brz,pn %l0, done
        0xA4046000 | _TEXT,  # add %l1, text, %l2
        0xC60C8000,  # next: ldub [%l2], %g3
        0x02C0C004,  # brz,pn %g3, done
        0xA404A001,  # inc %l2
        0x10BFFFFD,  # b next
        0xC62863F8,  # stb %g3, [%g1 + 0x3f8]: the UART
        0x0500001C,  # done: sethi %hi(0x7000), %g2
        0x8410A240,  # or %g2, 0x240, %g2
        0x07004000,  # sethi %hi(0x1000000), %g3: off
        0xC6204002,  # st %g3, [%g1 + %g2]: the power
        0x10800000,  # halt: b halt
        0x01000000,  # nop
    )
    handler = (
        0xA0102001,  # mov 1, %l0
        0x81F00000,  # done
    )
    rom = bytearray(_HANDLER + 0x20)
    for offset, words in ((_START, start), (_CODE, code), (_HANDLER, handler)):
        struct.pack_into(f">{len(words)}I", rom, offset, *words)
    rom[_TEXT : _TEXT + len(text)] = text
    return bytes(rom)
