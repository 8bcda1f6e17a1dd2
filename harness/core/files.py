"""Atomic replacement of files, and hashes of files and code."""

from __future__ import annotations

import ast
import errno
import hashlib
import os
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the directory of `path`; rename it to `path` on success, remove it on failure.

    A reader never sees half a file, and a run that is killed in the middle leaves the old file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` completely or not at all, even if the power fails. Only the owner may read the file."""
    with replacing(path) as temporary, temporary.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def read_regular_file(path: Path, limit: int) -> bytes:
    """Return the content of a file that may come from somebody else: a regular file of at most `limit` bytes.

    A FIFO or a device could block without end. Raises OSError, also for other kinds of files and for larger ones.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error), repr(str(path))) from None
    with os.fdopen(descriptor, "rb") as stream:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise IsADirectoryError(errno.EISDIR, "is a directory", str(path))
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        content = stream.read(limit + 1)
    if len(content) > limit:
        most = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit >> 10} KiB"
        raise OSError(errno.EFBIG, f"is larger than {most}", str(path))
    return content


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# Python 3.11 counts the depth of ast.parse() for all threads together and raises SystemError if two parse at once.
_PARSING = threading.Lock()


def code_sha256(path: Path) -> str:
    """Return the SHA-256 of a Python file's code in hex.

    Comments, docstrings and imports are left out: a build does not depend on them and must not be repeated if only
    prose changes or a module is renamed.
    """
    with _PARSING:
        tree = _WithoutProse().visit(ast.parse(path.read_text()))
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


class _WithoutProse(ast.NodeTransformer):
    """Transformer that drops imports and docstrings (every expression that is a bare string)."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        """Drop an expression that is only a string."""
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node

    def visit_Import(self, _node: ast.Import) -> None:
        """Drop an import."""

    def visit_ImportFrom(self, _node: ast.ImportFrom) -> None:
        """Drop an import."""


def sha256_of_strings(parts: Iterable[str]) -> str:
    """Return one SHA-256 of strings, each with its length before it so that no two lists collide."""
    total = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        total.update(f"{len(encoded)}:".encode())
        total.update(encoded)
    return total.hexdigest()


def sha256_of_matching_files(root: Path, pattern: str = "**/*") -> str:
    """Return one SHA-256 of the names and contents of the files below `root` that match `pattern`."""
    files = sorted(path for path in root.glob(pattern) if path.is_file())
    return sha256_of_strings(part for path in files for part in (str(path.relative_to(root)), sha256(path)))
