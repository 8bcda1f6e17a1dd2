"""What a host's disk refuses, told as what it is in one line, whoever ran into it first."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.core.errors import BuildError, HostError, PinpointError

# A disk with less than this free is what made a build fail, whatever the compiler said.
_FULL_BELOW = 4 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR)


@contextmanager
def told(where: Path) -> Iterator[None]:
    """Turn failures for want of room below `where`, or of leave to write there, into HostError.

    A child that ran out of room fails in its own words, or in none: then its log and what is left of the disk tell.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _full(where) from None
        if error.errno in _REFUSED:
            place = str(error.filename or where)
            raise HostError(os.strerror(error.errno), where=place, mend="see who owns the cache") from None
        raise
    except PinpointError as error:
        if _for_want_of_room(error, where):
            raise _full(where) from None
        raise


def _for_want_of_room(error: PinpointError, where: Path) -> bool:
    words = [str(error), *(error.last_lines() if isinstance(error, BuildError) else [])]
    if any(os.strerror(code) in line for line in words for code in _FULL):
        return True
    return where.exists() and shutil.disk_usage(where).free < _FULL_BELOW


def _full(where: Path) -> HostError:
    mounted = next((path for path in (where.absolute(), *where.absolute().parents) if path.is_mount()), where)
    return HostError("the disk is full", where=str(mounted), mend="make room, or set PINPOINT_CACHE elsewhere")
