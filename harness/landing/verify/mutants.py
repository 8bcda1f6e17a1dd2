"""What is broken on purpose in a mutant's cell of a case that judges somebody else's probes."""

from __future__ import annotations

# The lists that the judge reads lack every probe that came: only memory has them.
LIST_LEFT_OUT = "list-left-out"
# The module that is judged registers at the next instruction instead of the one that it is asked for.
REGISTERS_ELSEWHERE = "registers-elsewhere"

MUTANTS = frozenset({LIST_LEFT_OUT, REGISTERS_ELSEWHERE})
