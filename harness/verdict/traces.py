"""Stack traces as function + offset, with file and line where the module's DWARF has them.

The kernel itself names the functions in a trace. File and line come from the file of the module that was loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.core.elf import Elf
from harness.core.errors import PinpointError
from harness.core.line_table import statement_rows

# `func+0x1/0x20 [module]`, after an architecture's prefix; `? ` marks a value that only looks like a return address.
_FRAME = re.compile(
    r"(?:(?P<doubtful>\? )|(?<![\w.$]))\.?(?P<function>[A-Za-z_][\w.$]*)\+0x(?P<offset>[0-9a-f]+)/0x[0-9a-f]+"
    r"(?: \[(?P<module>\w+)\])?"
)
# Lines with the instruction pointer itself, on x86, arm64 and RISC-V, parisc, ARM, s390, PowerPC, MIPS, SPARC,
# LoongArch and SuperH. All other lines have return addresses.
_POINTER = re.compile(r"RIP: |e?pc(?:  )? : |\s*IAOQ\[0\]: |PC is at |Krnl PSW : |NIP \[|TPC: <|\s*ERA: |PC: \[<")
# The second entry of parisc's instruction address queue, and registers with a return address that the trace also has,
# or that is an old one (SuperH's PR).
# On s390 a value that only looks like a return address is in parentheses (show_stack(), arch/s390/kernel/dumpstack.c),
# on PowerPC it is marked (show_stack(), arch/powerpc/kernel/process.c).
_NO_FRAME = re.compile(
    r"\s*(?:IAOQ\[1\]|RP\(r2\)|RPC|I7|lr |ra|ra |ra    ): |[LP]R is at |LR \[|WARNING: |BUG: |\s*\(\[<"
    r"|.*\(unreliable\)$"
)
# The next line has the last branch that the CPU took (show_last_breaking_event(), arch/s390/kernel/dumpstack.c, 6.1).
_LAST_BRANCH = "Last Breaking-Event-Address:"


@dataclass(frozen=True)
class Frame:
    """One frame: `offset` bytes into a function, `source` as `file:line`, empty where it is unknown."""

    function: str
    offset: int
    module: str = ""
    source: str = ""

    def __str__(self) -> str:
        module = f" [{self.module}]" if self.module else ""
        source = f" at {self.source}" if self.source else ""
        return f"{self.function}+{self.offset:#x}{module}{source}"


def frames(lines: Iterable[str], files: Mapping[str, Path]) -> list[Frame]:
    """Return the frames in a complaint's lines, innermost first, each once; `files` has each loaded module's file."""
    found: dict[Frame, None] = {}
    previous = ""
    for line in lines:
        match = None if previous == _LAST_BRANCH or _NO_FRAME.match(line) else _FRAME.search(line)
        previous = line.strip()
        if match and not match["doubtful"]:
            function, offset, module = match["function"], int(match["offset"], 16), match["module"] or ""
            returned = _POINTER.match(line) is None
            source = source_of_function_offset(files[module], function, offset - returned) if module in files else ""
            found.setdefault(Frame(function, offset, module, source))
    return list(found)


def source_of_function_offset(module: Path, function: str, offset: int) -> str:
    """Return `file:line` of an offset in a module's function; empty if the module's file does not have it."""
    elf = Elf.read_cached(module)
    symbols = [symbol for symbol in elf.symbols_named(function) if symbol.kind == "func"]
    try:
        table = statement_rows(elf) if len(symbols) == 1 else ()
    except PinpointError:
        return ""
    if not table:
        return ""
    begin = elf.offset_in_section(symbols[0])
    own = [row for row in table if row.section == symbols[0].section and begin <= row.offset <= begin + offset]
    if not own:
        return ""
    # If several statements begin at one address, the last one is the code there.
    nearest = max(enumerate(own), key=lambda each: (each[1].offset, each[0]))[1]
    return f"{nearest.file}:{nearest.line}"
