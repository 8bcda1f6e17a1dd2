"""The directory with the temporary files of a run's tests; all runs of a user have theirs next to each other.

They are below pytest's own directory in TMPDIR. If that directory is emptied while tests run, the tests that are
running then lose their files. Each of them may fail in its own way, and later tests pass.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

_MARK = ".used-by-a-run"


class FilesOfTests:
    """The directory of one session, which pytest keeps for three sessions."""

    def __init__(self, config: pytest.Config) -> None:
        factory: Any = config._tmp_path_factory  # type: ignore[attr-defined]
        self.path: Path = factory.getbasetemp()
        (self.path / _MARK).touch()

    def describe_removal(self) -> str:
        """Return one line if the directory was emptied or removed since; empty if it was not."""
        if (self.path / _MARK).exists():
            return ""
        return f"{self.path}: was emptied while tests used it; a test that failed meanwhile shows nothing; run again"
