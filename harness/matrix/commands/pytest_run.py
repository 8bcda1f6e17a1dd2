"""Runs pytest in this process and translates its exit status."""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.core import paths, process
from harness.core.errors import HARNESS_FAILED, INTERRUPTED, WRONG_USE, UsageError

# Arguments of every pytest run, from any directory. pytest writes its cache into the root directory.
COMMON = (
    *("-c", str(paths.PROJECT / "pyproject.toml"), "--rootdir", str(paths.PROJECT), "-p", "harness.plugin"),
    # The environment of an installed Pinpoint may have it; `-n` is ours.
    *("-p", "no:xdist"),
    *(("-o", f"cache_dir={paths.cache() / 'pytest'}") if paths.INSTALLED else ()),
)
# How pytest begins the error for a plugin of -p or PYTEST_ADDOPTS that cannot be imported.
_NO_PLUGIN = "Error importing plugin"
# These cases run only with the option, even when they are named.
_LEFT_OUT = "; some cases run only with --crash-triggers all"


class _Interruption:
    """Records that a person ended the run, because pytest's exit status is the same as for a broken collection."""

    def __init__(self) -> None:
        self.seen = False

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        self.seen = excinfo.errisinstance(KeyboardInterrupt)


class _BrokenFiles:
    """Keeps the error of each file that pytest cannot import, by the file's path."""

    def __init__(self) -> None:
        self.errors: dict[Path, str] = {}

    def pytest_exception_interact(self, node: pytest.Item | pytest.Collector, report: pytest.CollectReport) -> None:
        """Keep the last line of an error: the exception and its text."""
        lines = [line.removeprefix("E").strip() for line in report.longreprtext.splitlines()]
        self.errors[node.path] = next((line for line in reversed(lines) if line), "no reason given")


def case_directories() -> list[str]:
    """Return the directories of all cases: ours, and the own tree's."""
    return [str(place) for place in paths.with_own_tree(paths.CASES)]


def demand_unit_tests() -> None:
    """Raise UsageError in an installed Pinpoint, which has no unit tests."""
    if paths.INSTALLED:
        raise UsageError("an installed Pinpoint has no unit tests", mend="run this command in the source tree")


def demand_own_cases_import() -> None:
    """Raise UsageError for a case file of the own tree that pytest cannot collect."""
    broken = _BrokenFiles()
    if own := case_directories()[1:]:
        collect_with_plugin(own, broken)
    for path, error in broken.errors.items():
        raise UsageError(f"cannot be collected: {error}", where=str(path), mend="fix it, or take it out of cases/")


def demand_case_matches(vm: str, expression: str) -> None:
    """Raise UsageError if `-k expression` selects no cell on the VM, before anything is built for it."""
    if collect_with_plugin([f"--vm={vm}", "-k", expression, *case_directories()], None) != pytest.ExitCode.OK:
        raise UsageError(f"no case matches {expression!r}", where="-k", mend=f"see {paths.PROGRAM} run --co")


def collect_with_plugin(arguments: Sequence[str], plugin: object | None) -> int:
    """Collect the tests that these arguments select and pass them to `plugin`; run and print nothing.

    Return pytest's status: OK only if a test is selected.
    """
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return pytest.main([*COMMON, "--collect-only", "--capture=no", *arguments], plugins=[plugin] if plugin else [])


def run(arguments: Sequence[str], plugins: Sequence[object] = ()) -> int:
    """Run pytest and return the exit status.

    It is 0 if all cells passed, 1 if a cell failed, 2 for wrong use, 3 if the harness or the host failed, and 130 if a
    person interrupted the run. Raises UsageError for a plugin that cannot be imported.
    """
    interruption = _Interruption()
    try:
        status = pytest.main([*COMMON, *arguments], plugins=[interruption, *plugins])
    except ImportError as error:
        if not str(error).startswith(_NO_PLUGIN):
            raise
        raise UsageError(str(error), where="-p", mend="name a plugin that Pinpoint's environment has") from None
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
