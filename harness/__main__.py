"""Starts the command line and returns its exit status; any exception that leaves it is one line and status 3.

Only Python's standard library is imported outside of the handler, because the environment may be damaged. Status 1,
Python's own for an exception, would mean that a cell failed.
"""

from __future__ import annotations

import contextlib
import os
import sys

# The statuses of harness/core/errors.py, which may not be importable.
_HARNESS_FAILED, _INTERRUPTED = 3, 130


def main() -> int:
    """Run one command and write out what it printed."""
    try:
        from harness import cli

        status = cli.main()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BaseException as error:
        # Output that could not be written must not fail again when the interpreter exits. If standard error cannot be
        # written either, the status alone reports the failure.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.write(sys.stderr.fileno(), f"pinpoint: {_one_line(error)}\n".encode(errors="replace"))
        return _HARNESS_FAILED
    return status


def _one_line(error: BaseException) -> str:
    """Describe an exception in one line without control codes."""
    try:
        from harness.core import exception_as_pinpoint_error

        text = str(exception_as_pinpoint_error.as_pinpoint_error(error))
    except BaseException:
        text = f"{type(error).__name__}: {error}"[:300]
    return "".join(letter if letter.isprintable() else " " for letter in text)


if __name__ == "__main__":
    sys.exit(main())
