"""The directory of one run's results."""

from __future__ import annotations

import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.core.errors import HostError

LATEST = "latest"
# A cell with many witnesses takes some 20 KiB, and the reports after it take more.
_RESERVED = 256 << 10


@dataclass(frozen=True)
class RunDirectory:
    """`results/<run>/`. The run's name is the UTC time of its start and a random part, so that it is unique."""

    path: Path

    @classmethod
    def create(cls, root: Path) -> RunDirectory:
        """Create the directory of a run that starts now, and point `latest` to it. Raises HostError."""
        try:
            root.mkdir(parents=True, exist_ok=True)
            path = _make_directory(root)
            (path / "console").mkdir()
            cls(path).reserved_space_file.write_bytes(bytes(_RESERVED))
            _point(root / LATEST, path.name)
        except OSError as error:
            raise HostError(
                f"no results can be written: {error.strerror}",
                where=str(error.filename or root),
                mend="set PINPOINT_RESULTS to a writable directory",
            ) from None
        return cls(path)

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def results_file(self) -> Path:
        """The file with a JSON object for each cell, one on each line."""
        return self.path / "results.jsonl"

    @property
    def figures_file(self) -> Path:
        """The file with a JSON object for each figure, one on each line."""
        return self.path / "figures.jsonl"

    @property
    def reserved_space_file(self) -> Path:
        """A file that reserves disk space until the run ends, for the last cell's result."""
        return self.path / ".reserve"

    @property
    def trials_file(self) -> Path:
        """The file with a JSON object for each trial of relocation by hand, one on each line."""
        return self.path / "trials.jsonl"

    @property
    def timeline_file(self) -> Path:
        """One JSON object a build, boot, thaw or cell, a line each."""
        return self.path / "timeline.jsonl"

    @property
    def lost_cells_file(self) -> Path:
        """One JSON object a cell that was asked for and did not run, a line each; absent when all ran."""
        return self.path / "lost.jsonl"

    @property
    def shard_file(self) -> Path:
        """The cells of all shards of the run; only in a run with --shard that ended."""
        return self.path / "shard.json"

    @property
    def pytest_junit_file(self) -> Path:
        """pytest's own JUnit file."""
        return self.path / "junit.xml"

    @property
    def html_report_file(self) -> Path:
        """The report for people."""
        return self.path / "report.html"

    @property
    def bundles_directory(self) -> Path:
        """The directory of bundles: `VM/BUNDLE`, with a bundle for each failed cell."""
        return self.path / "bundles"

    def console_logs_of_vm(self, vm: str) -> list[Path]:
        """Return the console logs of a VM's row, one for each process that ran a part of it; the newest is last.

        Logs of guests that a case started for itself are left out, because it may have fired crash triggers there.
        """
        row = re.compile(rf"{re.escape(vm)}(?:\.\w+)?\.log")
        found = [log for log in (self.path / "console").glob("*.log") if row.fullmatch(log.name) and log.is_file()]
        return sorted(found, key=lambda log: log.stat().st_mtime)


def _make_directory(root: Path) -> Path:
    """Make a directory with a new name. Two runs that begin in the same second may draw the same name (1 in 65,536)."""
    while True:
        path = root / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        with suppress(FileExistsError):
            # What guests print can be confidential. The command line's umask does not apply to a run of plain pytest.
            path.mkdir(mode=0o700)
            return path


def _point(link: Path, target: str) -> None:
    """Point `link` to `target` atomically, so that a reader finds either the old run or the new one."""
    made = link.with_name(f".{link.name}-{target}")
    made.symlink_to(target)
    try:
        made.replace(link)
    finally:
        made.unlink(missing_ok=True)
