"""Lists machine words with capstone, in a process of its own, because the tests' capstone is newer than Pinpoint's.

    python capstone_listing.py ARCHITECTURE MODE[+MODE...] WORD_BYTES < CODE

The arguments are capstone's names without `CS_ARCH_` and `CS_MODE_`. Each word has a line: mnemonic, a tab, operands.
Both are empty if capstone does not know the word. A word's address is its offset in the code.
"""

from __future__ import annotations

import sys
from functools import reduce
from operator import or_

import capstone


def main(architecture: str, modes: str, word_bytes: int, code: bytes) -> None:
    """Print the line of each word."""
    mode = reduce(or_, (getattr(capstone, f"CS_MODE_{name}") for name in modes.split("+")))
    listing = capstone.Cs(getattr(capstone, f"CS_ARCH_{architecture}"), mode)
    for offset in range(0, len(code), word_bytes):
        known = next(listing.disasm_lite(code[offset : offset + word_bytes], offset), ("", "", "", ""))
        print(f"{known[2]}\t{known[3]}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.stdin.buffer.read())
