"""The command for the edit loop: style, types, and the unit tests that boot no VM."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import click

from harness.cli_common import example_epilog
from harness.core import paths
from harness.core.errors import CELL_FAILED
from harness.matrix.commands import pytest_run

# No other check reads these suites before a whole run of them: they are not among the unit tests.
_SUITES = ("decoders", "faults", "readers")
_TOOLS = (
    ("ruff", "check"),
    ("ruff", "format", "--check"),
    ("mypy",),
    *(("mypy", f"tests/{suite}") for suite in _SUITES),
)
# mypy with an empty cache needs a minute on 2 busy cores.
_TOOL_SECONDS = 600


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": True},
    epilog=example_epilog("check tests/test_elf.py -x"),
)
@click.argument("pytest_arguments", nargs=-1, type=click.UNPROCESSED)
def check(pytest_arguments: Sequence[str]) -> int:
    """Check style, types, and the unit tests that boot no VM: two minutes on 2 cores.

    Other arguments go to pytest. A path runs only the tests in it, slow ones too.
    """
    pytest_run.demand_unit_tests()
    failed = [" ".join(tool) for tool in _TOOLS if not _passes(tool)]
    selected = any(not word.startswith("-") for word in pytest_arguments)
    ignored = [f"--ignore={paths.TESTS / suite}" for suite in _SUITES]
    chosen = [] if selected else [str(paths.TESTS), *ignored, "-m", "not slow"]
    workers = len(os.sched_getaffinity(0))
    status = pytest_run.run(["-q", *(["-n", str(workers)] if not selected else []), *chosen, *pytest_arguments])
    for tool in failed:
        click.echo(f"pinpoint: {tool} failed; see above", err=True)
    return status or (CELL_FAILED if failed else 0)


def _passes(tool: Sequence[str]) -> bool:
    """Run a tool over the project; its output goes to the terminal."""
    click.echo(f"{' '.join(tool)} ...", err=True)
    try:
        done = subprocess.run([sys.executable, "-m", *tool], cwd=paths.PROJECT, check=False, timeout=_TOOL_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
