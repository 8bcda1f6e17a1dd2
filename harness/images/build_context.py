"""The shared context of build steps: the store, the packages, the event bus and the compile slots."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from harness.core import paths
from harness.core.events import Bus
from harness.images.debian_packages_by_name import Packages
from harness.images.store import Store

# A kernel compile keeps about this many cores busy; beyond that its serial parts (links, kallsyms) dominate.
_CORES_PER_COMPILE = 8
_GIB_PER_COMPILE = 3


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


@dataclass(frozen=True)
class InProcessCompileSlots:
    """Slots for large compiles: as many as cores and memory allow, each with an equal share of the cores."""

    cores: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    memory_gib: float = field(default_factory=_memory_gib)
    _turns: list[threading.Semaphore] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self._turns.append(threading.Semaphore(self.count))

    @property
    def count(self) -> int:
        """Number of large compiles that run in parallel."""
        return max(1, min(self.cores // _CORES_PER_COMPILE, int(self.memory_gib // _GIB_PER_COMPILE)))

    @contextmanager
    def wait_for_slot(self) -> Iterator[int]:
        """Wait for a free slot; yield the number of jobs for `make -j`."""
        with self._turns[0]:
            yield max(1, -(-self.cores // self.count))


@dataclass(frozen=True)
class BuildContext:
    """The context that all builds of one run share."""

    store: Store
    packages: Packages
    bus: Bus
    slots: InProcessCompileSlots = field(default_factory=InProcessCompileSlots)
    uses_agreed_layers: bool = True
    """False to compute the inputs of all images here, even those that another host has named (agreed_layers.py)."""

    @classmethod
    def in_cache(cls, bus: Bus) -> BuildContext:
        """Return a context with its store and packages in the user's cache."""
        cache = paths.cache()
        return cls(Store(cache / "store", bus), Packages(cache / "apt", bus), bus)

    def without_builds(self) -> BuildContext:
        """Return this context with a store that only returns what it has."""
        return replace(self, store=self.store.without_builds())

    def with_suite(self, suite: str) -> BuildContext:
        """Return this context with the packages of the named Debian suite; an empty name keeps the suite."""
        return replace(self, packages=self.packages.with_suite(suite))
