"""What a case file claims: the first lines of its docstrings."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from harness.core import paths

_LARGEST = 1 << 20


@dataclass(frozen=True)
class CaseFileClaims:
    """The first line of a case file's docstring, and those of its cases by function. Empty where there is none.

    `line_by_function` has the line of each function, counted from 1.
    """

    file_claim: str = ""
    claim_by_function: Mapping[str, str] = field(default_factory=dict)
    line_by_function: Mapping[str, int] = field(default_factory=dict)

    def claim_of_case(self, case: str) -> str:
        """The claim of a case, whose name may carry parameters in brackets."""
        return self.claim_by_function.get(case.partition("[")[0], "")

    def line_of_case(self, case: str) -> int:
        """The line of a case, 0 where it is unknown."""
        return self.line_by_function.get(case.partition("[")[0], 0)


@lru_cache(maxsize=256)
def read_claims(file: str) -> CaseFileClaims:
    """The claims of a case file, named relative to the project as results name it.

    Empty for a file that is not below `cases/`, does not exist or cannot be parsed: results may come from another
    version of the project.
    """
    try:
        path = paths.case_file(file).resolve()
        places = [place.resolve() for place in paths.with_own_tree(paths.CASES)]
        if not any(map(path.is_relative_to, places)) or path.stat().st_size > _LARGEST:
            return CaseFileClaims()
        tree = ast.parse(path.read_text())
    except (OSError, ValueError, SyntaxError, RuntimeError):
        return CaseFileClaims()
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name[:5] == "test_"]
    return CaseFileClaims(
        _first_line(tree), {node.name: _first_line(node) for node in found}, {node.name: node.lineno for node in found}
    )


def _first_line(node: ast.Module | ast.FunctionDef) -> str:
    text = (ast.get_docstring(node) or "").strip()
    return text.splitlines()[0] if text else ""
