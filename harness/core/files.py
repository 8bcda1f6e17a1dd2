"""Files written beside and renamed, and the hashes they are known by."""

from __future__ import annotations

import ast
import hashlib
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; renamed over it on success, removed on failure.

    A reader never sees half a file, and a run killed in the middle leaves the old one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text`, whole or not at all, also when the power fails. Only its owner may read it."""
    with replacing(path) as beside, beside.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def sha256(path: Path) -> str:
    """The file's SHA-256, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# Python 3.11 counts the depth of ast.parse() for all threads together and raises SystemError when two parse at once.
_PARSING = threading.Lock()


def code_sha256(path: Path) -> str:
    """The SHA-256 of a Python file's code, in hex.

    Comments, docstrings and imports are left out: a build does not depend on them, and must not be repeated when only
    prose changes or a module is renamed.
    """
    with _PARSING:
        tree = _WithoutProse().visit(ast.parse(path.read_text()))
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


class _WithoutProse(ast.NodeTransformer):
    """Drops docstrings (any expression that is a bare string) and imports."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        """Drop a string that stands alone."""
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node

    def visit_Import(self, _node: ast.Import) -> None:
        """Drop an import."""

    def visit_ImportFrom(self, _node: ast.ImportFrom) -> None:
        """Drop an import."""


def digest(parts: Iterable[str]) -> str:
    """One SHA-256 over strings, each length-prefixed so that no two lists collide."""
    total = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        total.update(f"{len(encoded)}:".encode())
        total.update(encoded)
    return total.hexdigest()


def tree_digest(root: Path, pattern: str = "**/*") -> str:
    """One SHA-256 over the names and contents of the files below `root` that match."""
    files = sorted(path for path in root.glob(pattern) if path.is_file())
    return digest(part for path in files for part in (str(path.relative_to(root)), sha256(path)))
