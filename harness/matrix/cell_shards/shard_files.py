"""The files of a cell shard: what its process leaves in its directory goes into the directory of the run."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from harness.core.errors import HostError
from harness.report import jsonl
from harness.report.run_dir import RunDirectory

# What the process printed, which is not among its messages: an error of Python, for example.
OUTPUT = "output.log"
_LONGEST_WORDS = 300
# The beginnings of lines that pytest prints although nothing is wrong, such as `=== no tests ran in 0.1 s ===`.
_PYTESTS_OWN = ("=", "collected ")


def make_directory(run: RunDirectory, name: str) -> Path:
    """Make the directory of a shard. Raises HostError."""
    made = run.path / "shards" / name
    try:
        (made / "console").mkdir(parents=True)
    except OSError as error:
        mend = "make room and run again"
        raise HostError(f"cannot be made: {error.strerror}", where=str(made), mend=mend) from None
    return made


def take_bundle(run: RunDirectory, shard: Path, bundle: str) -> str:
    """Move a bundle, named by its path in the shard's directory, into the run; return its path there."""
    source, target = shard / bundle, run.path / bundle
    if not source.exists():
        return bundle
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            source.rename(target)
            return bundle
    except OSError:
        pass
    return str(source.relative_to(run.path))


def take_files(run: RunDirectory, shard: Path, *, keep_output: bool) -> None:
    """Move the console logs and bundles of a shard that has ended into the run, and append its lines. Raises HostError.

    What cannot be moved stays in the shard's directory. With `keep_output`, what the process printed stays too.
    """
    for bundle in (shard / "bundles").glob("*/*"):
        take_bundle(run, shard, str(bundle.relative_to(shard)))
    for log in (shard / "console").iterdir():
        with contextlib.suppress(OSError):
            if not (run.path / "console" / log.name).exists():
                log.rename(run.path / "console" / log.name)
    for lines in shard.glob("*.jsonl"):
        jsonl.append_file(run.path / lines.name, lines)
        lines.unlink()
    places = (shard / "console").glob("*"), (shard / "bundles").glob("[!.]*/*")
    left = any(any(place) for place in places)
    if not left and not (keep_output and last_words(shard)):
        shutil.rmtree(shard, ignore_errors=True)
        with contextlib.suppress(OSError):
            shard.parent.rmdir()


def last_words(shard: Path) -> str:
    """Return the last line that the process of a shard printed, without pytest's own, empty for none."""
    try:
        lines = (shard / OUTPUT).read_bytes()[-4096:].decode(errors="replace").split("\n")
    except OSError:
        return ""
    words = (line.strip() for line in reversed(lines) if not line.startswith(_PYTESTS_OWN))
    return next((line[:_LONGEST_WORDS] for line in words if line), "")
