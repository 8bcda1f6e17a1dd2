"""Canaries: tiny programs that an accelerator must run before a kernel is booted on it.

Each canary is the firmware of an otherwise empty machine: it prints one line and ends QEMU. It first executes the same
steps as a booting kernel. An accelerator that cannot execute them hangs or reports an error at once.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

GREETING = b"pinpoint: canary\n"

PSCI_SYSTEM_OFF = 0x84000008
PSCI_SYSTEM_RESET = 0x84000009


@dataclass(frozen=True)
class Canary:
    """One canary.

    `rom` is the firmware, `rc` QEMU's exit status after a complete run, `devices` the QEMU devices that it needs.
    """

    rom: bytes
    rc: int
    devices: tuple[str, ...] = ()


# The ROM is 64 KiB and ends at 4 GiB. Its parts are at these offsets; hlt between them stops a stray jump.
_SIZE, _BASE, _RESET = 0x10000, 0xFFFF0000, 0xFFF0
_REAL, _PROTECTED, _LONG, _HANDLER, _GREETING = 0x000, 0x100, 0x200, 0x300, 0x400
_GDT, _IDT, _GDT_POINTER, _IDT_POINTER = 0x500, 0x600, 0x700, 0x710
_PML4, _PDPT, _LOW_PAGES, _HIGH_PAGES = 0x1000, 0x2000, 0x3000, 0x4000
_CODE32, _DATA, _CODE64 = 0x08, 0x10, 0x18
# Present, accessed and dirty are set already, so that the processor never needs to write into the ROM.
_TABLE, _LARGE_PAGE = 0x23, 0xE3


def _entries(*entries: tuple[int, int]) -> bytes:
    """Return a table of 512 quadwords: each (index, value) in `entries`, zero elsewhere."""
    table = [0] * 512
    for index, value in entries:
        table[index] = value
    return struct.pack("<512Q", *table)


def _x86_64() -> bytes:
    """Return a ROM that runs real, protected and long mode, a breakpoint exception, a long loop and the greeting.

    The exception and the loop distinguish a processor from an emulator of single instructions: a KVM that runs only
    paravirtual guests reaches long mode, then stops at int3 with "emulation failure". The ROM ends QEMU.
    """
    # fmt: off
    parts = {
        _RESET: b"\xe9" + struct.pack("<H", (_REAL - _RESET - 3) & 0xFFFF),  # jmp real
        _REAL: b"\xfa"  # cli
        b"\x2e\x66\x0f\x01\x16" + struct.pack("<H", _GDT_POINTER) +  # lgdtl %cs:gdt_pointer
        b"\x0f\x20\xc0\x0c\x01\x0f\x22\xc0"  # mov %cr0,%eax; or $PE,%al; mov %eax,%cr0
        b"\x66\xea" + struct.pack("<IH", _BASE + _PROTECTED, _CODE32),  # ljmpl $CODE32,$protected
        _PROTECTED: b"\xb8" + struct.pack("<I", _DATA) +  # mov $DATA,%eax
        b"\x8e\xd8\x8e\xd0"  # mov %eax,%ds; mov %eax,%ss
        b"\xbc\x00\x80\x00\x00"  # mov $0x8000,%esp
        b"\x0f\x20\xe0\x0c\x20\x0f\x22\xe0"  # mov %cr4,%eax; or $PAE,%al; mov %eax,%cr4
        b"\xb8" + struct.pack("<I", _BASE + _PML4) + b"\x0f\x22\xd8"  # mov $pml4,%eax; mov %eax,%cr3
        b"\xb9\x80\x00\x00\xc0\x0f\x32\x80\xcc\x01\x0f\x30"  # mov $EFER,%ecx; rdmsr; or $LME,%ah; wrmsr
        b"\x0f\x20\xc0\x0d\x00\x00\x00\x80\x0f\x22\xc0"  # mov %cr0,%eax; or $PG,%eax; mov %eax,%cr0
        b"\xea" + struct.pack("<IH", _BASE + _LONG, _CODE64),  # ljmpl $CODE64,$long
        _LONG: b"\x0f\x01\x1d" + struct.pack("<i", _IDT_POINTER - _LONG - 7) +  # lidt idt_pointer(%rip)
        b"\x31\xdb\xcc"  # xor %ebx,%ebx; int3
        b"\xb9\x00\x00\x00\x01\xff\xc9\x75\xfc"  # mov $1<<24,%ecx; again: dec %ecx; jnz again
        b"\xba\xf8\x03\x00\x00"  # mov $0x3f8,%edx
        b"\xbe" + struct.pack("<I", _BASE + _GREETING) +  # mov $greeting,%esi
        b"\x89\xd9\xf3\x6e"  # mov %ebx,%ecx; rep outsb
        b"\xba\xf4\x00\x00\x00\x31\xc0\xee"  # mov $0xf4,%edx; xor %eax,%eax; out %al,%dx
        b"\xf4\xeb\xfd",  # halt: hlt; jmp halt
        # The greeting has length zero unless this handler runs.
        _HANDLER: b"\xbb" + struct.pack("<I", len(GREETING)) + b"\x48\xcf",  # mov $length,%ebx; iretq
        _GREETING: GREETING,
        _GDT: struct.pack("<4Q", 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00AF9B000000FFFF),
        # Vector 3: a present interrupt gate of ring 0.
        _IDT + 3 * 16: struct.pack("<HHHHII", _HANDLER, _CODE64, 0x8E00, _BASE >> 16, 0, 0),
        _GDT_POINTER: struct.pack("<HI", 4 * 8 - 1, _BASE + _GDT),
        _IDT_POINTER: struct.pack("<HQ", 4 * 16 - 1, _BASE + _IDT),
        # The first 2 MiB (the stack) and the last 2 MiB below 4 GiB (this ROM) at their own addresses.
        _PML4: _entries((0, _BASE + _PDPT | _TABLE)),
        _PDPT: _entries((0, _BASE + _LOW_PAGES | _TABLE), (3, _BASE + _HIGH_PAGES | _TABLE)),
        _LOW_PAGES: _entries((0, _LARGE_PAGE)),
        _HIGH_PAGES: _entries((511, 0xFFE00000 | _LARGE_PAGE)),
    }
    # fmt: on
    rom = bytearray(b"\xf4" * _SIZE)
    for offset, content in parts.items():
        rom[offset : offset + len(content)] = content
    return bytes(rom)


def arm64_canary_program(text: bytes, psci: int) -> bytes:
    """Return a program that prints `text` on the PL011 of QEMU's `virt` machine, then calls the PSCI function `psci`.

    Source: hw/arm/virt.c (QEMU), Arm DEN0022 (PSCI).
    """
    words = (
        0xD2A12001,  # mov x1, #0x09000000
        0x10000162,  # adr x2, greeting
        0xD2800003 | len(text) << 5,  # mov x3, #length
        0x38401444,  # next: ldrb w4, [x2], #1
        0x39000024,  # strb w4, [x1]
        0xF1000463,  # subs x3, x3, #1
        0x54FFFFA1,  # b.ne next
        0x52B08000,  # mov w0, #0x84000000
        0x72800000 | (psci & 0xFFFF) << 5,  # movk w0, #function
        0xD4000002,  # hvc #0
        0xD503207F,  # halt: wfi
        0x17FFFFFF,  # b halt
    )
    return struct.pack(f"<{len(words)}I", *words) + text


def _arm() -> bytes:
    """Return the same program in 32-bit ARM code, which prints the greeting and turns the machine off."""
    words = (
        0xE3A01409,  # mov r1, #0x09000000
        0xE28F2024,  # adr r2, greeting
        0xE3A03000 | len(GREETING),  # mov r3, #length
        0xE4D24001,  # next: ldrb r4, [r2], #1
        0xE5814000,  # str r4, [r1]
        0xE2533001,  # subs r3, r3, #1
        0x1AFFFFFB,  # bne next
        0xE3000000 | PSCI_SYSTEM_OFF & 0xFFF,  # movw r0, #function
        0xE3480400,  # movt r0, #0x8400
        0xE1400070,  # hvc #0
        0xE320F003,  # halt: wfi
        0xEAFFFFFD,  # b halt
    )
    return struct.pack(f"<{len(words)}I", *words) + GREETING


def _riscv64() -> bytes:
    """Return a program that prints the greeting on the UART of QEMU's `virt` machine, and writes to its finisher.

    Source: hw/riscv/virt.c (addresses), hw/misc/sifive_test.c (QEMU 7.2).
    """
    words = (
        0x100002B7,  # lui t0, 0x10000: the UART
        0x00000517,  # auipc a0, 0
        0x03850513,  # addi a0, a0, greeting - .
        0x00000593 | len(GREETING) << 20,  # li a1, length
        0x00054303,  # next: lbu t1, 0(a0)
        0x00628023,  # sb t1, 0(t0)
        0x00150513,  # addi a0, a0, 1
        0xFFF58593,  # addi a1, a1, -1
        0xFE0598E3,  # bnez a1, next
        0x001002B7,  # lui t0, 0x100: the finisher
        0x00005337,  # lui t1, 5
        0x5553031B,  # addiw t1, t1, 0x555: end with status 0
        0x0062A023,  # sw t1, 0(t0)
        0x10500073,  # halt: wfi
        0xFFDFF06F,  # j halt
    )
    return struct.pack(f"<{len(words)}I", *words) + GREETING


# The firmware address of QEMU's B160L, which loads its firmware from an ELF file (hw/hppa/hppa_hardware.h, machine.c).
_FIRMWARE = 0xF0000000


def _parisc() -> bytes:
    """Return a program that prints the greeting on LASI's UART, at 0xffd05800, and halts like QEMU's own firmware."""
    words = (
        0x20223FFB,  # ldil L%0xffd05800, %r1
        0x34210000,  # ldo R%0xffd05800(%r1), %r1
        0xE8400000,  # bl .+8, %r2
        0xD4401C1E,  # depi 0, 31, 2, %r2: no privilege level in the address
        0x34420040,  # ldo greeting - .(%r2), %r2
        0x0C421023,  # next: ldbs,ma 1(%r2), %r3
        0x8460200A,  # comib,=,n 0, %r3, done
        0xE81F1FE5,  # b next
        0x0C231200,  # stb %r3, 0(%r1), in the delay slot
        0xFFFDEAD0,  # done: halt (target/hppa/insns.decode)
        0xE81F1FF7,  # halt: b,n halt
        0x08000240,  # nop
    )
    program = struct.pack(f">{len(words)}I", *words) + GREETING + b"\0"
    # elf(5): 32 bits, big-endian, EM_PARISC, PA-RISC 1.1; one segment after both headers.
    begin, size = 52 + 32, len(program)
    header = struct.pack(">2HI3I", 2, 15, 1, _FIRMWARE, 52, 0) + struct.pack(">I6H", 0x210, 52, 32, 1, 0, 0, 0)
    segment = struct.pack(">8I", 1, begin, _FIRMWARE, _FIRMWARE, size, size, 7, 4)
    return b"\x7fELF\x01\x02\x01".ljust(16, b"\0") + header + segment + program


def _s390x() -> bytes:
    """Return a program that writes the greeting to the SCLP console, then waits, which QEMU takes as a shutdown.

    QEMU loads firmware that is no ELF file, of at most 4 KiB, and starts at its first byte (hw/s390x/ipl.c). The wait
    is a PSW with disabled interrupts and the address 0xfff (target/s390x/helper.c, s390_handle_wait()).
    """
    psw, block = 0x20, 0x30
    program = bytes.fromhex(
        f"c020{block // 2:08x}"  # larl %r2, block
        "c03f00760005"  # llilf %r3, SCLP_CMD_WRITE_EVENT_DATA
        "b2200032"  # servc %r3, %r2
        f"c010{(psw - 16) // 2:08x}"  # larl %r1, psw
        "b2b21000"  # lpswe 0(%r1)
    )
    # The block's header, then an event of the ASCII console (include/hw/s390x/sclp.h and event-facility.h).
    event = struct.pack(">HBBH", 6 + len(GREETING), 0x1A, 0, 0) + GREETING
    waits = struct.pack(">QQ", 0x0002000180000000, 0xFFF)
    return program.ljust(psw, b"\0") + waits + struct.pack(">H6x", 8 + len(event)) + event


CANARIES = {
    # isa-debug-exit ends QEMU with twice the value written, plus one (hw/misc/debugexit.c).
    "x86_64": Canary(_x86_64(), rc=1, devices=("isa-debug-exit,iobase=0xf4,iosize=4",)),
    "arm64": Canary(arm64_canary_program(GREETING, PSCI_SYSTEM_OFF), rc=0),
    "armhf": Canary(_arm(), rc=0),
    "riscv64": Canary(_riscv64(), rc=0),
    "parisc": Canary(_parisc(), rc=0),
    "s390x": Canary(_s390x(), rc=0),
}
