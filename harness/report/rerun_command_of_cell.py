"""The command that runs a cell of the results again."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from harness.core import paths
from harness.core.own_tree import own_tree_option
from harness.report import bundle
from harness.report.record import Cell

# A name that -k takes as one word (pytest's own scanner of expressions, _pytest/mark/expression.py, 9.0).
_WORD = re.compile(r"[\w:+\-.\\/]+")


def replay_command(cell: Cell, place: Path) -> str:
    """The command: from the cell's bundle, whose path is relative to `place`, or by its names.

    Results hold no name of pytest's, so a cell without a bundle is selected by the parts of its own name: the mutants
    of the case, and cases whose names contain the same parts, may run with it.
    """
    if cell.bundle:
        return bundle.command(Path(os.path.normpath(place / cell.bundle)))
    name, _, parameters = cell.case.partition("[")
    words = [name, *(word for word in re.split(r"[\[\]]+", parameters) if _WORD.fullmatch(word))]
    if cell.mutant:
        words.append(f"mutant:{cell.mutant}")
    # A file is named by its path from Pinpoint's directory, which a wheel has not.
    file = [cell.file] if cell.file and not paths.INSTALLED and (paths.PROJECT / cell.file).exists() else []
    command = shlex.join([paths.PROGRAM, "run", "--vm", cell.vm, "-k", " and ".join(words), *file])
    return f"{command}{own_tree_option()}"
