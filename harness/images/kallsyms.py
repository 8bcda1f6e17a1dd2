"""Recovery of a stripped kernel's symbols from the kallsyms tables in its file, without a booted guest.

vmlinux-to-elf finds and decodes the tables. It takes seconds of pure Python, and minutes of guesses on damaged input.
Therefore it runs as a child with a deadline: `python -m harness.images.kallsyms KERNEL OUT`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from harness.core import paths
from harness.core.deadline import Deadline
from harness.core.errors import BuildError
from harness.core.process import run


@dataclass(frozen=True)
class RecoveredSymbol:
    """One symbol as /proc/kallsyms would list it at slide 0; `letter` is nm's, in lower case for a local symbol."""

    address: int
    letter: str
    name: str


@dataclass(frozen=True)
class Kallsyms:
    """A kernel's own symbol table; `image_base` is the link address of the first byte of a flat kernel image."""

    image_base: int
    symbols: tuple[RecoveredSymbol, ...]

    def symbol_address(self, name: str) -> int:
        """Return the address of the first symbol with that name. Raises BuildError when there is none."""
        for symbol in self.symbols:
            if symbol.name == name:
                return symbol.address
        raise BuildError(f"the kernel's symbol table has no {name}", mend="is it a Linux kernel with CONFIG_KALLSYMS?")

    def linked_at(self, base: int, size: int) -> Kallsyms:
        """Return this table if its text is in a flat image of `size` bytes at `base`, else one with `_text` at `base`.

        vmlinux-to-elf 1.4 computes the addresses of PC-relative tables (7.0) from the program headers of an ELF, which
        a flat image lacks. Raises BuildError as `symbol_address` does.
        """
        if self.symbol_address("_stext") in range(base, base + size):
            return self
        distance = base - self.symbol_address("_text")
        return Kallsyms(base, tuple(replace(each, address=each.address + distance) for each in self.symbols))


def recover(kernel: Path, scratch: Path, deadline: Deadline, linked_at: int = 0, word_bytes: int = 8) -> Kallsyms:
    """Return the symbols of an unpacked kernel, an ELF or a flat image.

    `linked_at` is the link address of a flat image, or 0 to let vmlinux-to-elf infer it from function prologues, which
    it can for the architectures that it knows. `word_bytes` counts only with `linked_at`. The child writes its result
    to the file `scratch`. Raises BuildError when the tables are not found, and DeadlineExceeded when the search takes
    too long.
    """
    child = run(
        [sys.executable, "-m", "harness.images.kallsyms", kernel, scratch, f"{linked_at:x}", str(word_bytes)],
        deadline=deadline,
        cwd=paths.PROJECT,
    )
    if child.rc:
        reason = (child.output.strip().splitlines() or ["no output"])[-1]
        raise BuildError(f"no symbols recovered: {reason}", where=kernel.name, mend="is it built with CONFIG_KALLSYMS?")
    base, *lines = scratch.read_text().splitlines()
    split = (line.split(" ", 2) for line in lines)
    return Kallsyms(
        int(base, 16), tuple(RecoveredSymbol(int(address, 16), letter, name) for address, letter, name in split)
    )


def _child(kernel: Path, out: Path, base: int, word_bytes: int) -> None:
    """Write the base and the symbols to a file, one per line."""
    from vmlinux_to_elf.core.kallsyms import KallsymsFinder

    known = {"bit_size": 8 * word_bytes, "explicit_base_address": base} if base else {}
    finder = KallsymsFinder(kernel.read_bytes(), **known)
    lines = [f"{base or finder.kernel_text_candidate:x}"]
    for symbol in finder.symbols:
        letter = symbol.symbol_type.value
        lines.append(f"{symbol.virtual_address:x} {letter if symbol.is_global else letter.lower()} {symbol.name}")
    out.write_text("\n".join(lines))


if __name__ == "__main__":
    _child(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3], 16), int(sys.argv[4]))
