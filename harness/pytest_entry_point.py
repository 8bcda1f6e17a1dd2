"""The entry point of pytest for an installed Pinpoint: it loads the plugin only into sessions that run cases.

Without a sign of cases in its arguments, a session of another project in the same environment is left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.core import paths

_OPTIONS = ("--vm", "--project")


def pytest_load_initial_conftests(early_config: pytest.Config, args: Sequence[str]) -> None:
    """Load the plugin if an option or a path in the arguments is about cases."""
    if any(word.partition("=")[0] in _OPTIONS or _names_our_case(word) for word in args):
        early_config.pluginmanager.import_plugin("harness.plugin")


def _names_our_case(word: str) -> bool:
    try:
        return Path(word.partition("::")[0]).resolve().is_relative_to(paths.CASES)
    except (OSError, ValueError):
        return False
