"""The instructions of x86 kernels that capstone 5 cannot decode.

They were found by decoding all functions of the x86 kernels of vm_images/. The encodings are those of the kernel's
table of opcodes (arch/x86/lib/x86-opcode-map.txt), and of AMD's manual, volume 3, where that table lacks them.
"""

from __future__ import annotations

import re

from harness.landing.code.instruction import Flow

_LONGEST = 6
_PLAIN = re.compile(
    rb"""
      \x0f\x01\xe8            # SERIALIZE, sync_core()
    | \x0f\x01[\xfe\xff]      # INVLPGB, TLBSYNC
    | \x66\x0f\x01\xcc        # TDCALL: the TDX module returns to the next instruction
    | \xf2\x0f\x01[\xfd-\xff] # RMPREAD, RMPUPDATE, PVALIDATE
    | \xf3\x0f\x01[\xfe\xff]  # RMPADJUST, PSMASH
    | \xf2\x0f\x00[\xf0-\xf7] # LKGS with a register
    | \xc4\xe2\x78\x49\xc0    # TILERELEASE
    """,
    re.DOTALL | re.VERBOSE,
)
_UDB = re.compile(rb"\xd6")  # ASM_UDB, arch/x86/include/asm/bug.h, 7.3; 32-bit code has another instruction there


def missing_instruction_size(code: bytes) -> int:
    """Return the size of the instruction that some bytes begin with; 0 if it is none of these."""
    found = _PLAIN.match(code) or _UDB.match(code)
    return found.end() if found else 0


def missing_instruction_flow(code: bytes) -> Flow:
    """Return the flow of an instruction; UNKNOWN if it is none of these."""
    if _PLAIN.fullmatch(code):
        return Flow.PLAIN
    return Flow.ENDS if _UDB.fullmatch(code) else Flow.UNKNOWN


def bytes_to_skip(code: bytes, size: int, offset: int, _: object) -> int:
    """Return how many bytes capstone skips where it decodes no instruction: one if there is none of these, either.

    It is capstone's cs_skipdata_cb_t; `code` is a pointer to all bytes, whose slices are bytes.
    """
    return missing_instruction_size(code[offset : min(size, offset + _LONGEST)]) or 1
