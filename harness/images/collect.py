"""What the cache holds that no run needs any more: found, and removed unless somebody uses it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import HostError
from harness.images.store import Store

_DAY = 86400.0


@dataclass(frozen=True)
class Unused:
    """One thing in the cache: its path, its size on the disk in bytes, when a run last used it, in epoch seconds."""

    path: Path
    size: int
    used: float

    def days(self, now: float) -> float:
        """How long ago that was."""
        return max(0.0, now - self.used) / _DAY


def everything(cache: Path) -> list[Unused]:
    """Every entry of the store and every log, the longest unused first; what is being built is left out."""
    places = [path for path in _below(cache / "store") if not path.name.startswith(".")]
    return sorted((_measured(path) for path in (*places, *_below(cache / "logs"))), key=lambda each: each.used)


def chosen(found: list[Unused], older: float | None, size: int | None, now: float) -> list[Unused]:
    """Those to remove: unused for more than `older` days, and the longest unused until `size` bytes are left.

    A time in the future, from a clock that was wrong, is no reason to remove anything.
    """
    old = [each for each in found if older is not None and each.days(now) > older]
    left = sum(each.size for each in found) - sum(each.size for each in old)
    for each in found:
        if size is None or left <= size:
            break
        if each not in old:
            old.append(each)
            left -= each.size
    return old


def remove(store: Store, each: Unused) -> bool:
    """Remove it; false where another run holds it or has removed it. Raises HostError."""
    try:
        if each.path.parent == store.root:
            return store.discard(each.path)
        each.path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise HostError(error.strerror or str(error), where=str(each.path), mend="see who owns the cache") from None
    return True


def _below(directory: Path) -> Iterator[Path]:
    """What is directly below a directory that may not be there."""
    with suppress(FileNotFoundError):
        yield from directory.iterdir()


def _measured(path: Path) -> Unused:
    used, size = 0.0, 0
    with suppress(FileNotFoundError):
        used = path.lstat().st_mtime
        size = path.lstat().st_blocks * 512
        for directory, _, names in os.walk(path):
            for name in names:
                with suppress(FileNotFoundError):
                    size += os.lstat(f"{directory}/{name}").st_blocks * 512
    return Unused(path, size, used)
