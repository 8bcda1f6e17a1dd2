"""What every build step is handed: where to keep results, where packages come from, whom to tell, when to compile."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from harness.core import paths
from harness.core.events import Bus
from harness.images.packages import Packages
from harness.images.store import Store

# A kernel compile keeps about this many cores busy before its serial parts (links, kallsyms) show.
_CORES_PER_COMPILE = 8
_GIB_PER_COMPILE = 3


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


@dataclass(frozen=True)
class Slots:
    """Turns at compiling something large: as many at once as cores and memory bear, each with its share of cores."""

    cores: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    memory_gib: float = field(default_factory=_memory_gib)
    _turns: list[threading.Semaphore] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self._turns.append(threading.Semaphore(self.count))

    @property
    def count(self) -> int:
        """How many large compiles go side by side."""
        return max(1, min(self.cores // _CORES_PER_COMPILE, int(self.memory_gib // _GIB_PER_COMPILE)))

    @contextmanager
    def turn(self) -> Iterator[int]:
        """Wait for a turn; gives the number of jobs for `make -j`."""
        with self._turns[0]:
            yield max(1, -(-self.cores // self.count))


@dataclass(frozen=True)
class BuildContext:
    """Shared by all builds of one run."""

    store: Store
    packages: Packages
    bus: Bus
    slots: Slots = field(default_factory=Slots)

    @classmethod
    def in_cache(cls, bus: Bus) -> BuildContext:
        """The build_context whose store and packages stand in the user's cache."""
        cache = paths.cache()
        return cls(Store(cache / "store", bus), Packages(cache / "apt", bus), bus)

    def of(self, suite: str) -> BuildContext:
        """The same, with packages of another Debian suite where one is named."""
        return replace(self, packages=self.packages.of(suite))
