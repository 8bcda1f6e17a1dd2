"""Sweeps that survive the death of guests: a batch that kills one is split on fresh guests until the site is found."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

from harness.core.errors import DeadlineExceeded, GuestError, GuestLost
from harness.core.events import ProgressStep
from harness.core.worker_threads import WorkerThreads
from harness.guest.guest import Guest
from harness.landing.layout import Layout
from harness.landing.site import Site
from harness.landing.sweep.batched_sweep import FatalSite, Sweep, SweepResult
from harness.landing.sweep.sweep_module import SweepModule
from harness.landing.target import Target

FreshGuestFactory = Callable[[], AbstractContextManager[Guest]]
_DEATHS = (GuestError, GuestLost, DeadlineExceeded)


class _Died(Exception):
    """The guest died; this exception skips the checks that are made of a live guest."""


class FreshGuests:
    """Arms batches on fresh guests, `workers` guests at a time.

    If a guest dies or hangs, or the process that registers dies, the batch is swept again in parts on the next guest. A
    site that kills a guest alone is recorded in `fatal_sites`, and the sweep goes on. `parameters` are passed to the
    sweep module.
    """

    def __init__(
        self, fresh: FreshGuestFactory, step: ProgressStep, *, workers: int = 1, parameters: Sequence[str] = ()
    ) -> None:
        self._fresh = fresh
        self._step = step
        self._workers = workers
        self._parameters = parameters
        self._lock = threading.Lock()
        self._todo: deque[Sequence[Site]] = deque()
        self._began = 0.0
        self._sites = 0
        self.swept = SweepResult()
        self.guests = 0

    def sweep_batches(self, batches: Iterable[Sequence[Site]]) -> SweepResult:
        """Sweep all batches. Errors other than the death of a guest, and complaints of guests that live, are raised."""
        self._todo.extend(batches)
        self._sites = sum(len(batch) for batch in self._todo)
        self._began = time.monotonic()
        with WorkerThreads(self._workers, thread_name_prefix="sweep") as pool:
            for worker in [pool.submit(self._work) for _ in range(self._workers)]:
                worker.result()
        self.swept.seconds = time.monotonic() - self._began
        return self.swept

    def _work(self) -> None:
        while self._todo:
            self.guests += 1
            try:
                with self._fresh() as guest:
                    self._on(guest)
            except _Died:
                continue

    def _on(self, guest: Guest) -> None:
        """Sweep on one guest until no batch is left or the guest dies."""
        target = Target(guest, "pinpoint_target")
        module = SweepModule(guest, self._parameters)
        target.load()
        module.load()
        sweep = Sweep(Layout(guest, [target]), module, armed=True)
        while (batch := self._next()) is not None:
            try:
                self._keep(sweep.sweep_as_one_batch(batch))
            except _DEATHS as death:
                self._take_apart(batch, find_suspected_sites(module, batch), sweep.wrong.get(batch[0], ""), death)
                raise _Died from death
        module.unload()
        target.unload()

    def _next(self) -> Sequence[Site] | None:
        with self._lock:
            return self._todo.popleft() if self._todo else None

    def _keep(self, swept: SweepResult) -> None:
        with self._lock:
            self.swept.add(swept)
            report_progress(self._step, self.swept.site_count, self._sites, time.monotonic() - self._began)

    def _take_apart(self, batch: Sequence[Site], suspected: Sequence[Site], defect: str, death: Exception) -> None:
        """Queue each suspect alone and the others in halves; a batch of one is recorded as deadly, with `defect`."""
        with self._lock:
            if len(batch) == 1:
                self.swept.fatal_sites.append(FatalSite(batch[0], defect))
                self._step.publish_progress(f"{batch[0]} kills the guest: {death}")
                return
            others = [site for site in batch if site not in suspected]
            middle = len(others) // 2
            parts = [*([site] for site in suspected), others[:middle], others[middle:]]
            self._todo.extendleft(part for part in reversed(parts) if part)


def find_suspected_sites(module: SweepModule, batch: Sequence[Site]) -> list[Site]:
    """The sites of a batch that the dead guest's flight recorder names; empty if its memory cannot be read."""
    try:
        numbers = module.read_flight_recorder()
    except _DEATHS:
        return []
    return [batch[number] for number in dict.fromkeys(numbers) if number < len(batch) and len(batch) > 1]


def sweep_one_guest_or_raise(sweep: Sweep, batches: Sequence[Sequence[Site]], step: ProgressStep) -> SweepResult:
    """Sweep a guest that is not expected to die; its death is raised."""
    began, sites, swept = time.monotonic(), sum(len(batch) for batch in batches), SweepResult()
    for batch in batches:
        swept.add(sweep.sweep_as_one_batch(batch))
        report_progress(step, swept.site_count, sites, time.monotonic() - began)
    return swept


def report_progress(step: ProgressStep, done: int, sites: int, seconds: float) -> None:
    """Report sites done, sites per second and seconds left."""
    rate = done / seconds if seconds else 0.0
    left = (sites - done) / rate if rate else 0.0
    step.publish_progress(
        f"{done} of {sites} sites, {rate:.0f} a second, {left:.0f} s left", done / sites if sites else 1.0
    )
