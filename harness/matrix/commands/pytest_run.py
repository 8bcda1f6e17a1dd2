"""Runs pytest in this process and translates its exit status."""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
from collections.abc import Sequence

import pytest

from harness.core import paths, process
from harness.core.errors import HARNESS_FAILED, INTERRUPTED, WRONG_USE

# Arguments of every pytest run, from any directory.
COMMON = ("-c", str(paths.PROJECT / "pyproject.toml"), "--rootdir", str(paths.PROJECT))
# These cases run only with the option, even when they are named.
_LEFT_OUT = "; some cases run only with --crash-triggers all"


class _Interruption:
    """Records that a person ended the run, because pytest's exit status is the same as for a broken collection."""

    def __init__(self) -> None:
        self.seen = False

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        self.seen = excinfo.errisinstance(KeyboardInterrupt)


def collect_with_plugin(arguments: Sequence[str], plugin: object) -> None:
    """Collect the tests that these arguments select and pass them to `plugin`; run and print nothing."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        pytest.main([*COMMON, "--collect-only", "--capture=no", *arguments], plugins=[plugin])


def run(arguments: Sequence[str], plugins: Sequence[object] = ()) -> int:
    """Run pytest and return the exit status.

    It is 0 if all cells passed, 1 if a cell failed, 2 for wrong use, 3 if the harness or the host failed, and 130 if a
    person interrupted the run.
    """
    interruption = _Interruption()
    status = pytest.main([*COMMON, *arguments], plugins=[interruption, *plugins])
    match status:
        case pytest.ExitCode.OK | pytest.ExitCode.TESTS_FAILED:
            return int(status)
        case pytest.ExitCode.INTERRUPTED if interruption.seen:
            process.stop_all()
            return INTERRUPTED
        case pytest.ExitCode.USAGE_ERROR:
            return WRONG_USE
        case pytest.ExitCode.NO_TESTS_COLLECTED:
            hint = "" if any(word.startswith("--crash-triggers") for word in arguments) else _LEFT_OUT
            print(f"pinpoint: no case matches: {shlex.join(arguments)}{hint}", file=sys.stderr)
            return WRONG_USE
    return HARNESS_FAILED
