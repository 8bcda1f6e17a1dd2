"""Conversion of the host's disk errors, such as a full disk, into one-line HostErrors."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.core.errors import BuildError, HostError, PinpointError

# Less free space than this is the cause of a failed build, whatever error the compiler printed.
_FULL_BELOW = 4 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
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
            raise _full(where) from None
        if error.errno in _REFUSED:
            place = str(error.filename or where)
            raise HostError(os.strerror(error.errno), where=place, mend="check the owner of the cache") from None
        raise
    except PinpointError as error:
        if _caused_by_full_disk(error, where):
            raise _full(where) from None
        raise


def _caused_by_full_disk(error: PinpointError, where: Path) -> bool:
    words = [str(error), *(error.last_lines() if isinstance(error, BuildError) else [])]
    if any(os.strerror(code) in line for line in words for code in _FULL):
        return True
    return where.exists() and shutil.disk_usage(where).free < _FULL_BELOW


def _full(where: Path) -> HostError:
    mounted = next((path for path in (where.absolute(), *where.absolute().parents) if path.is_mount()), where)
    return HostError("the disk is full", where=str(mounted), mend="make room, or set PINPOINT_CACHE to another disk")
