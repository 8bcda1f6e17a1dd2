"""The last duration of each task of an image, kept in the user's cache, so that the longest build begins first."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from harness.core.events import Bus, Event, EventKind
from harness.core.files import write_text
from harness.report import cell_duration_cache

# The steps that the board shows of an image that is built, here or on a host.
_TASKS = frozenset(("kernel", "modules", "programs", "rootfs", "freeze"))
# What the store ends a step with that built nothing.
_KEPT = "from the store"


class BuildDurations:
    """Collects the seconds of the builds of a run from its events."""

    def __init__(self, path: Path, bus: Bus) -> None:
        self._path = path
        self._found: dict[str, dict[str, float]] = {}
        self._lock = threading.Lock()
        self.past: Mapping[str, Mapping[str, float]] = cell_duration_cache.seconds_by_vm_and_cell(path)
        bus.add_listener(self._receive)

    def save(self) -> None:
        """Write the seconds of this run's builds; those of others stay as they are."""
        with self._lock:
            found = {vm: dict(tasks) for vm, tasks in self._found.items()}
        if found:
            known = cell_duration_cache.seconds_by_vm_and_cell(self._path)
            merged = {vm: {**known.get(vm, {}), **found.get(vm, {})} for vm in {*known, *found}}
            write_text(self._path, cell_duration_cache.as_json(merged))

    def _receive(self, event: Event) -> None:
        if event.kind is EventKind.FINISHED and event.step in _TASKS and not event.detail.startswith(_KEPT):
            with self._lock:
                self._found.setdefault(event.vm, {})[event.step] = round(event.seconds, 1)
