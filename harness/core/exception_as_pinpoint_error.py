"""Unexpected exceptions as one-line errors: an OSError with its path, any other with its traceback in a file."""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from harness.core import paths
from harness.core.errors import HostError, PinpointError

_FEWEST_FRAMES = 40


def as_pinpoint_error(error: BaseException) -> PinpointError:
    """Return a one-line PinpointError that names the file with the traceback; for an OSError, also the path."""
    if isinstance(error, PinpointError):
        return error
    kept = _kept(error)
    if isinstance(error, OSError):
        name = error.filename if error.filename is not None else error.filename2
        where = os.fsencode(name).decode(errors="backslashreplace") if isinstance(name, bytes | str) else ""
        what = error.strerror or str(error) or type(error).__name__
        return HostError(what, where=where, mend=f"check disk and permissions; the traceback is in {kept}")
    environment = os.environ.get("PINPOINT_ENVIRONMENT")
    if isinstance(error, ImportError) and environment:
        return HostError(f"the Python environment is damaged: {error}", where=environment, mend="remove it")
    what = f"{type(error).__name__}: {error}"
    return HostError(f"unexpected error: {what[:300]}", mend=f"report it; the traceback is in {kept}")


def _kept(error: BaseException) -> str:
    """Write the traceback to the first writable directory; return its path, or why there is no file."""
    text = "".join(traceback.format_exception(error, limit=_FEWEST_FRAMES)).encode(errors="replace")
    places: tuple[Callable[[], Path], ...] = (lambda: paths.cache() / "logs", lambda: Path(tempfile.gettempdir()))
    for find in places:
        try:
            # On a host without any writable temporary directory, gettempdir() raises OSError.
            directory = find()
            directory.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix="traceback-", suffix=".txt", dir=directory)
            with os.fdopen(handle, "wb") as stream:
                stream.write(text)
        except (OSError, ValueError, RuntimeError, ImportError):
            continue
        return name
    return "no file, because none can be written"
