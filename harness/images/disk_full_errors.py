"""Conversion of the host's disk errors, such as a full disk, into one-line HostErrors."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.core.errors import BuildError, HostError, PinpointError

# Less free space than this is the cause of a failed build, whatever error the compiler printed.
_FULL_BELOW = 4 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
_MESSAGES = tuple(os.strerror(code) for code in _FULL)
# The file that could not be written: `error writing to /tmp/ccRz0ab.s: No space left on device`. A name at the start of
# such a line is the file that was read.
_UNWRITTEN = re.compile(rf"(/[^\s:'\"`]+)['\"`]?: (?:{'|'.join(map(re.escape, _MESSAGES))})")
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR)


@contextmanager
def as_host_errors(where: Path) -> Iterator[None]:
    """Convert failures from a full disk, or from a lack of write permission, below `where` into HostError.

    A child process on a full disk fails with its own message or with none. Its log and the free space are checked.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _full(Path(tempfile.gettempdir()) if _is_temporary(error.filename, where) else where) from None
        if error.errno in _REFUSED:
            place = str(error.filename or where)
            raise HostError(os.strerror(error.errno), where=place, mend="check the owner of the cache") from None
        raise
    except PinpointError as error:
        if _caused_by_full_disk(error, where):
            raise _full(Path(tempfile.gettempdir()) if _names_temporary_file(_words(error)) else where) from None
        raise


def _is_temporary(file: object, where: Path) -> bool:
    """Return True if a file that Python could not write is among the temporary files, and not below `where`."""
    path = Path(str(file or where)).absolute()
    return path.is_relative_to(tempfile.gettempdir()) and not path.is_relative_to(where.absolute())


def _names_temporary_file(lines: Iterable[str]) -> bool:
    """Return True if a message about a full disk names a temporary file of a compiler, such as /tmp/ccRz0ab.s.

    The free space does not show it: the compiler deletes its temporary files when it fails.
    """
    names = (name for line in lines for name in _UNWRITTEN.findall(line))
    return any(Path(name).parent == Path(tempfile.gettempdir()) for name in names)


def _words(error: PinpointError) -> list[str]:
    return [error.what, *(error.last_lines() if isinstance(error, BuildError) else [])]


def _caused_by_full_disk(error: PinpointError, where: Path) -> bool:
    if any(message in line for line in _words(error) for message in _MESSAGES):
        return True
    return where.exists() and shutil.disk_usage(where).free < _FULL_BELOW


def _full(where: Path) -> HostError:
    mounted = next((path for path in (where.absolute(), *where.absolute().parents) if path.is_mount()), where)
    variable = "TMPDIR" if where == Path(tempfile.gettempdir()) else "PINPOINT_CACHE"
    return HostError("the disk is full", where=str(mounted), mend=f"make room, or set {variable} to another disk")
