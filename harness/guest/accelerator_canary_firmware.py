"""Canaries: tiny programs that an accelerator must run before a kernel is booted on it.

Each canary is the firmware of an otherwise empty machine: it prints one line and ends QEMU. It first executes the same
steps as a booting kernel. An accelerator that cannot execute them hangs or reports an error at once.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from harness.guest.mips_canary_firmware import mips_canary_program
from harness.guest.sh4_canary_firmware import sh4_canary_program
from harness.guest.sparc64_canary_firmware import sparc64_canary_program

GREETING = b"pinpoint: canary\n"

PSCI_SYSTEM_OFF = 0x84000008
PSCI_SYSTEM_RESET = 0x84000009


@dataclass(frozen=True)
class Canary:
    """One canary.

    `rom` is the firmware, `rc` QEMU's exit status after a complete run, `devices` the QEMU devices that it needs,
    `memory_mib` the memory without which QEMU refuses the machine, `option` the option that names the firmware's file.
    """

    rom: bytes
    rc: int
    devices: tuple[str, ...] = ()
    memory_mib: int = 16
    option: str = "-bios"


# The ROM is 64 KiB and ends at 4 GiB. Its parts are at these offsets; hlt between them stops a stray jump.
_SIZE, _BASE, _RESET = 0x10000, 0xFFFF0000, 0xFFF0
_REAL, _PROTECTED, _LONG, _HANDLER, _GREETING = 0x000, 0x100, 0x200, 0x300, 0x400
_GDT, _IDT, _GDT_POINTER, _IDT_POINTER = 0x500, 0x600, 0x700, 0x710
_PML4, _PDPT, _LOW_PAGES, _HIGH_PAGES = 0x1000, 0x2000, 0x3000, 0x4000
_CODE32, _DATA, _CODE64 = 0x08, 0x10, 0x18
# In RAM, which is zero: PAE's table of four directories. QEMU 7.2 writes the accessed bit, which is reserved there.
_DIRECTORIES = 0x1000
# Present, accessed and dirty are set already, so that the processor never needs to write into the ROM.
_TABLE, _LARGE_PAGE = 0x23, 0xE3
_PRESENT = 1


def _entries(*entries: tuple[int, int]) -> bytes:
    """Return a table of 512 quadwords: each (index, value) in `entries`, zero elsewhere."""
    table = [0] * 512
    for index, value in entries:
        table[index] = value
    return struct.pack("<512Q", *table)


def _x86_rom(parts: dict[int, bytes]) -> bytes:
    """Return a ROM of these parts, which begins with the way to protected mode and holds the greeting.

    The first 2 MiB (the stack) and the last 2 MiB below 4 GiB (the ROM) can be mapped at their own addresses.
    """
    # fmt: off
    common = {
        _RESET: b"\xe9" + struct.pack("<H", (_REAL - _RESET - 3) & 0xFFFF),  # jmp real
        _REAL: b"\xfa"  # cli
        b"\x2e\x66\x0f\x01\x16" + struct.pack("<H", _GDT_POINTER) +  # lgdtl %cs:gdt_pointer
        b"\x0f\x20\xc0\x0c\x01\x0f\x22\xc0"  # mov %cr0,%eax; or $PE,%al; mov %eax,%cr0
        b"\x66\xea" + struct.pack("<IH", _BASE + _PROTECTED, _CODE32),  # ljmpl $CODE32,$protected
        _GREETING: GREETING,
        _GDT: struct.pack("<4Q", 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00AF9B000000FFFF),
        _GDT_POINTER: struct.pack("<HI", 4 * 8 - 1, _BASE + _GDT),
        _LOW_PAGES: _entries((0, _LARGE_PAGE)),
        _HIGH_PAGES: _entries((511, 0xFFE00000 | _LARGE_PAGE)),
    }
    # fmt: on
    rom = bytearray(b"\xf4" * _SIZE)
    for offset, content in (common | parts).items():
        rom[offset : offset + len(content)] = content
    return bytes(rom)


# The parts that are the same in 32-bit and in 64-bit code, except for the registers that hold addresses.
# fmt: off
_X86_PAE = (
    b"\xb8" + struct.pack("<I", _DATA) +  # mov $DATA,%eax
    b"\x8e\xd8\x8e\xd0"  # mov %eax,%ds; mov %eax,%ss
    b"\xbc\x00\x80\x00\x00"  # mov $0x8000,%esp
    b"\x0f\x20\xe0\x0c\x20\x0f\x22\xe0"  # mov %cr4,%eax; or $PAE,%al; mov %eax,%cr4
    b"\xb8"  # mov $table,%eax
)
_X86_CR3 = b"\x0f\x22\xd8"  # mov %eax,%cr3
_X86_PAGING = b"\x0f\x20\xc0\x0d\x00\x00\x00\x80\x0f\x22\xc0"  # mov %cr0,%eax; or $PG,%eax; mov %eax,%cr0
_X86_GREETS = (
    b"\x31\xdb\xcc"  # xor %ebx,%ebx; int3
    b"\xb9\x00\x00\x00\x01\xff\xc9\x75\xfc"  # mov $1<<24,%ecx; again: dec %ecx; jnz again
    b"\xba\xf8\x03\x00\x00"  # mov $0x3f8,%edx
    b"\xbe" + struct.pack("<I", _BASE + _GREETING) +  # mov $greeting,%esi
    b"\x89\xd9\xf3\x6e"  # mov %ebx,%ecx; rep outsb
    b"\xba\xf4\x00\x00\x00\x31\xc0\xee"  # mov $0xf4,%edx; xor %eax,%eax; out %al,%dx
    b"\xf4\xeb\xfd"  # halt: hlt; jmp halt
)
# The greeting has length zero unless the handler of the breakpoint runs.
_X86_HANDLES = b"\xbb" + struct.pack("<I", len(GREETING))  # mov $length,%ebx
# fmt: on


def _x86_64() -> bytes:
    """Return a ROM that runs real, protected and long mode, a breakpoint exception, a long loop and the greeting.

    The exception and the loop distinguish a processor from an emulator of single instructions: a KVM that runs only
    paravirtual guests reaches long mode, then stops at int3 with "emulation failure". The ROM ends QEMU.
    """
    # fmt: off
    return _x86_rom({
        _PROTECTED: _X86_PAE + struct.pack("<I", _BASE + _PML4) + _X86_CR3 +
        b"\xb9\x80\x00\x00\xc0\x0f\x32\x80\xcc\x01\x0f\x30" +  # mov $EFER,%ecx; rdmsr; or $LME,%ah; wrmsr
        _X86_PAGING +
        b"\xea" + struct.pack("<IH", _BASE + _LONG, _CODE64),  # ljmpl $CODE64,$long
        _LONG: b"\x0f\x01\x1d" + struct.pack("<i", _IDT_POINTER - _LONG - 7) +  # lidt idt_pointer(%rip)
        _X86_GREETS,
        _HANDLER: _X86_HANDLES + b"\x48\xcf",  # iretq
        # Vector 3: a present interrupt gate of ring 0.
        _IDT + 3 * 16: struct.pack("<HHHHII", _HANDLER, _CODE64, 0x8E00, _BASE >> 16, 0, 0),
        _IDT_POINTER: struct.pack("<HQ", 4 * 16 - 1, _BASE + _IDT),
        _PML4: _entries((0, _BASE + _PDPT | _TABLE)),
        _PDPT: _entries((0, _BASE + _LOW_PAGES | _TABLE), (3, _BASE + _HIGH_PAGES | _TABLE)),
    })
    # fmt: on


def _i386() -> bytes:
    """Return a ROM that does the same in protected mode with PAE paging, which Debian's 686-pae kernel uses."""
    # fmt: off
    return _x86_rom({
        _PROTECTED: _X86_PAE + struct.pack("<I", _DIRECTORIES) +
        b"\xc7\x00" + struct.pack("<I", _BASE + _LOW_PAGES | _PRESENT) +  # movl $low,(%eax)
        b"\xc7\x40\x18" + struct.pack("<I", _BASE + _HIGH_PAGES | _PRESENT) +  # movl $high,24(%eax)
        _X86_CR3 + _X86_PAGING +
        b"\x0f\x01\x1d" + struct.pack("<I", _BASE + _IDT_POINTER) +  # lidt idt_pointer
        _X86_GREETS,
        _HANDLER: _X86_HANDLES + b"\xcf",  # iret
        # Vector 3: a present interrupt gate of ring 0.
        _IDT + 3 * 8: struct.pack("<HHHH", _HANDLER, _CODE32, 0x8E00, _BASE >> 16),
        _IDT_POINTER: struct.pack("<HI", 4 * 8 - 1, _BASE + _IDT),
    })
    # fmt: on


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


def _loongarch64() -> bytes:
    """Return a program that prints the greeting on the UART of QEMU's `virt` machine, and turns the machine off.

    Source: include/hw/loongarch/virt.h (addresses), hw/acpi/generic_event_device.c (QEMU 11.1).
    """
    words = (
        0x143FC00C,  # lu12i.w t0, 0x1fe00: the UART is at 0x1fe001e0
        0x18000164,  # pcaddi a0, 11: the greeting
        0x02800005 | len(GREETING) << 10,  # addi.w a1, zero, length
        0x2A00008D,  # next: ld.bu t1, a0, 0
        0x2907818D,  # st.b t1, t0, 0x1e0
        0x02C00484,  # addi.d a0, a0, 1
        0x02BFFCA5,  # addi.w a1, a1, -1
        0x47FFF0BF,  # bnez a1, next
        0x14201C0C,  # lu12i.w t0, 0x100e0: the registers of the event device are at 0x100e001c
        0x0280D00D,  # addi.w t1, zero, 0x34: sleep enable, S5
        0x2900718D,  # st.b t1, t0, 0x1c
        0x50000000,  # halt: b halt
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


# The address of the first instruction of QEMU's pseries firmware (SPAPR_ENTRY_POINT, hw/ppc/spapr.c), the vector of the
# program interrupt (Power ISA, book III), and where this firmware has its data.
_ENTRY, _PROGRAM, _TEXT, _ARGUMENTS = 0x100, 0x700, 0x200, 0x240
_H_PUT_TERM_CHAR, _H_RTAS, _RTAS_POWER_OFF = 0x58, 0xF000, 0x2003


def _pseries() -> bytes:
    """Return a program that hits a breakpoint, prints the greeting by hypercalls, and lets RTAS turn the machine off.

    A pseries machine starts big-endian. The text has length zero unless the handler runs. The terminal 0 is the first
    one (spapr_vty_lookup(), hw/char/spapr_vty.c); the numbers are those of include/hw/ppc/spapr.h.
    """
    program = (
        0x3A400000,  # li r18, 0
        0x7FE00008,  # trap
        0x3A200000 | _TEXT - 1,  # li r17, text - 1
        0x2C120000,  # next: cmpwi r18, 0
        0x4182002C,  # beq done
        0x8CD10001,  # lbzu r6, 1(r17)
        0x78C6C1C6,  # sldi r6, r6, 56
        0x38600000 | _H_PUT_TERM_CHAR,  # li r3, H_PUT_TERM_CHAR
        0x38800000,  # li r4, 0
        0x38A00001,  # li r5, 1
        0x44000022,  # sc 1
        0x2C230000,  # cmpdi r3, 0: the terminal is busy unless it is 0
        0x4082FFEC,  # bne again, the load of r3
        0x3A52FFFF,  # addi r18, r18, -1
        0x4BFFFFD4,  # b next
        0x38600000,  # done: li r3, 0
        0x60630000 | _H_RTAS,  # ori r3, r3, H_RTAS
        0x38800000 | _ARGUMENTS,  # li r4, arguments
        0x44000022,  # sc 1
        0x48000000,  # halt: b halt
    )
    handler = (
        0x3A400000 | len(GREETING),  # li r18, length
        0x7E7A02A6,  # mfsrr0 r19
        0x3A730004,  # addi r19, r19, 4
        0x7E7A03A6,  # mtsrr0 r19
        0x4C000024,  # rfid
    )
    rom = bytearray(0x800)
    for offset, words in ((_ENTRY, program), (_PROGRAM, handler), (_ARGUMENTS, (_RTAS_POWER_OFF, 2, 1, 0, 0, 0))):
        struct.pack_into(f">{len(words)}I", rom, offset, *words)
    rom[_TEXT : _TEXT + len(GREETING)] = GREETING
    return bytes(rom)


CANARIES = {
    # isa-debug-exit ends QEMU with twice the value written, plus one (hw/misc/debugexit.c).
    "x86_64": Canary(_x86_64(), rc=1, devices=("isa-debug-exit,iobase=0xf4,iosize=4",)),
    "i386": Canary(_i386(), rc=1, devices=("isa-debug-exit,iobase=0xf4,iosize=4",)),
    "arm64": Canary(arm64_canary_program(GREETING, PSCI_SYSTEM_OFF), rc=0),
    "armhf": Canary(_arm(), rc=0),
    "riscv64": Canary(_riscv64(), rc=0),
    "loongarch64": Canary(_loongarch64(), rc=0, memory_mib=1024),  # QEMU 7.2 requires 1 GiB
    "parisc": Canary(_parisc(), rc=0),
    # -no-reboot makes the reset the end of QEMU.
    **dict.fromkeys(("mips", "mips64el"), Canary(mips_canary_program(GREETING), rc=0)),
    # A pseries machine needs a multiple of 256 MiB (SPAPR_MEMORY_BLOCK_SIZE, include/hw/ppc/spapr.h).
    **dict.fromkeys(("ppc64", "ppc64le"), Canary(_pseries(), rc=0, memory_mib=256)),
    "s390x": Canary(_s390x(), rc=0),
    "sh4": Canary(sh4_canary_program(GREETING), rc=0, option="-kernel"),  # an r2d board takes no -bios
    "sparc64": Canary(sparc64_canary_program(GREETING), rc=0),
}
