"""The canary of MIPS machines: one firmware for both byte orders and both word sizes."""

from __future__ import annotations

import struct

# The entry of the vector of exceptions while the kernel has not moved it (BEV), and where this firmware has its text.
_VECTOR, _TEXT = 0x380, 0x200


def mips_canary_program(text: bytes) -> bytes:
    """Return a program that hits a breakpoint, prints `text` on QEMU's Malta board, and resets the board.

    It prints nothing unless the handler of the breakpoint runs. QEMU swaps the bytes of each word of the firmware of a
    little-endian CPU, so the text is read by words; and it writes the revision of the board to offset 0x10
    (hw/mips/malta.c, 7.2).
    """
    program = (
        0x3C080040,  # lui t0, 0x40: BEV, and no error level, with which eret would return to another address
        0x40886000,  # mtc0 t0, c0_status
        0x10000003,  # b over
        0x000000C0,  # ehb
        0,  # the revision
        0,
        0x00008025,  # over: move s0, zero
        0x0000000D,  # break
        0x3C08B000,  # lui t0, 0xb000: the I/O ports of the PCI bus after a reset
        0x3C09BFC0,  # lui t1, 0xbfc0: this firmware
        0x25290000 | _TEXT,  # addiu t1, t1, text
        0x1200000D,  # beqz s0, done
        0x00000000,  # nop
        0x8D2B0000,  # word: lw t3, 0(t1)
        0x240C0004,  # li t4, 4
        0x000B6E02,  # byte: srl t5, t3, 24
        0x11A00008,  # beqz t5, done
        0x00000000,  # nop
        0xA10D03F8,  # sb t5, 0x3f8(t0): the UART
        0x000B5A00,  # sll t3, t3, 8
        0x258CFFFF,  # addiu t4, t4, -1
        0x1580FFF9,  # bnez t4, byte
        0x00000000,  # nop
        0x1000FFF5,  # b word
        0x25290004,  # addiu t1, t1, 4
        0x3C08BF00,  # done: lui t0, 0xbf00: the board's FPGA
        0x24090042,  # li t1, 0x42
        0xAD090500,  # sw t1, 0x500(t0): its register of resets
        0x1000FFFF,  # halt: b halt
        0x00000000,  # nop
    )
    handler = (
        0x24100001,  # li s0, 1
        0x401A7000,  # mfc0 k0, c0_epc
        0x275A0004,  # addiu k0, k0, 4
        0x409A7000,  # mtc0 k0, c0_epc
        0x000000C0,  # ehb
        0x42000018,  # eret
    )
    rom = bytearray(0x400)
    for offset, words in ((0, program), (_VECTOR, handler)):
        struct.pack_into(f">{len(words)}I", rom, offset, *words)
    rom[_TEXT : _TEXT + len(text)] = text
    return bytes(rom)
