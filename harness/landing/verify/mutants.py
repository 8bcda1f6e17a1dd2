"""What is broken on purpose in a mutant's cell of a case that judges somebody else's probes."""

from __future__ import annotations

# The lists that the judge reads lack every probe that came: only memory has them.
LIST_LEFT_OUT = "list-left-out"
# What is judged registers at the next instruction, or in another function, instead of the place that is expected.
REGISTERS_ELSEWHERE = "registers-elsewhere"
# The symbol table that a command reads has each function's address at the name of the one before it.
TABLE_LIES = "table-lies"
# The recorded calls lack the addresses of the handler and of the kprobe, so that only the calling process is known; of
# fprobes only the kernel's own handler is known.
OWNER_LEFT_OUT = "owner-left-out"

MUTANTS = frozenset({LIST_LEFT_OUT, REGISTERS_ELSEWHERE, TABLE_LIES, OWNER_LEFT_OUT})
