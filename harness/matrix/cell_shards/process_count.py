"""The option `-n`: in how many processes the shards of a run run."""

from __future__ import annotations

import argparse
import os

import pytest

_MOST = 1000
_AUTO = "auto"


def add_option(group: pytest.OptionGroup, plugins: pytest.PytestPluginManager) -> None:
    """Add the option, unless pytest-xdist has it already: then `demand_own_processes` checks its value."""
    if not plugins.hasplugin("xdist"):
        # The public addoption() reserves short options in lower case for pytest.
        group._addoption(
            "-n",
            "--numprocesses",
            dest="numprocesses",
            type=_parse,
            default=0,
            metavar="N",
            help="run rows in N processes at once; 0 runs them in this one, auto in as many as there are cores",
        )


def demand_own_processes(config: pytest.Config) -> None:
    """Raise UsageError for options that need one process and several, and for processes of pytest-xdist."""
    if config.option.numprocesses and config.pluginmanager.hasplugin("xdist"):
        raise pytest.UsageError("cells do not run under pytest-xdist: add -p no:xdist, or use ./pinpoint run -n N")
    several = config.option.numprocesses or config.option.scheduler or config.option.pinpoint_hosts
    if several and (config.option.usepdb or config.option.trace or config.option.at_failure):
        raise pytest.UsageError("--pdb, --trace and --at-failure need one process: use -n 0")


def process_count(config: pytest.Config) -> int:
    """Return in how many processes other than this one the tests run; 0 for this one. Hosts have their own number."""
    elsewhere = bool(config.option.scheduler or config.option.pinpoint_hosts)
    return 0 if config.option.collectonly else int(config.option.numprocesses or 0) or elsewhere


def _parse(text: str) -> int:
    if text == _AUTO:
        return len(os.sched_getaffinity(0))
    if not (text.isascii() and text.isdecimal() and int(text[:9]) <= _MOST):
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no number from 0 to {_MOST}, and not {_AUTO}")
    return int(text)
