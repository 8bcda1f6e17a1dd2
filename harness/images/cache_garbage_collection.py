"""Garbage collection of the cache: finds entries and logs that no run needs, and removes those that are not in use."""

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
class CacheItem:
    """One item of the cache: its path, its size on disk in bytes, and the time of its last use in epoch seconds."""

    path: Path
    size: int
    last_used: float

    def days_unused(self, now: float) -> float:
        """Return the days since the last use; 0 for a time in the future."""
        return max(0.0, now - self.last_used) / _DAY


def list_cache_items(cache: Path) -> list[CacheItem]:
    """Return every entry of the store and every log, the longest unused first, without builds in progress."""
    places = [path for path in _below(cache / "store") if not path.name.startswith(".")]
    return sorted((_measured(path) for path in (*places, *_below(cache / "logs"))), key=lambda each: each.last_used)


def choose_items_to_remove(
    found: list[CacheItem], older: float | None, size: int | None, now: float
) -> list[CacheItem]:
    """Return items to remove: unused for more than `older` days, and the longest unused until `size` bytes are left.

    `older` does not apply to an item whose time is in the future because a clock was wrong.
    """
    old = [each for each in found if older is not None and each.days_unused(now) > older]
    left = sum(each.size for each in found) - sum(each.size for each in old)
    for each in found:
        if size is None or left <= size:
            break
        if each not in old:
            old.append(each)
            left -= each.size
    return old


def remove_item_unless_in_use(store: Store, each: CacheItem) -> bool:
    """Remove one item; return False if another run uses it or has removed it. Raises HostError."""
    try:
        if each.path.parent == store.root:
            return store.remove_unless_in_use(each.path)
        each.path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise HostError(error.strerror or str(error), where=str(each.path), mend="check the cache's owner") from None
    return True


def _below(directory: Path) -> Iterator[Path]:
    """Yield the paths directly below a directory; nothing if the directory does not exist."""
    with suppress(FileNotFoundError):
        yield from directory.iterdir()


def _measured(path: Path) -> CacheItem:
    used, size = 0.0, 0
    with suppress(FileNotFoundError):
        used = path.lstat().st_mtime
        size = path.lstat().st_blocks * 512
        for directory, _, names in os.walk(path):
            for name in names:
                with suppress(FileNotFoundError):
                    size += os.lstat(f"{directory}/{name}").st_blocks * 512
    return CacheItem(path, size, used)
