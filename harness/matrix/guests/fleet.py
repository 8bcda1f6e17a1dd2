"""The rows of a run: images prepared and guests booted in the background, handed out as they become ready."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

from harness.core.errors import PinpointError
from harness.core.events import Bus
from harness.guest import start
from harness.guest.emulator import EmulatorKilled, FrozenRefused
from harness.guest.guest import Guest
from harness.guest.keys import RunKeys
from harness.guest.start import StartOptions
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.prepare import prepare
from harness.images.recipe import Recipe, select
from harness.matrix.guests import checkup
from harness.matrix.guests.freezer import Freezer
from harness.matrix.guests.once import Once
from harness.report.time_accounts import IMAGE
from harness.verdict.liveness import GuestDied

# What may go well with the next guest of a row, and how often it is tried.
_PASSING = (EmulatorKilled, FrozenRefused, GuestDied)
_MOST_LOST = 3


def _build_here(_: str) -> None:
    """Nobody else builds: the image is built by this process."""


class Fleet:
    """One guest a VM, as long as it is well; a retired one is replaced when next asked for."""

    def __init__(
        self,
        recipes: Iterable[Recipe],
        *,
        build_context: BuildContext,
        bus: Bus,
        directory: Path,
        forced_accelerator: str | None,
        suffix: str = "",
        await_image: Callable[[str], None] = _build_here,
    ) -> None:
        """`bus` hears of boots, the build_context's own of builds; `await_image` waits for another process's build.

        `suffix` is what this process's console logs end with, where others write some of the same rows.
        """
        self.recipes = {recipe.name: recipe for recipe in recipes}
        self.bus = bus
        self._workshop = build_context
        self._await_image = await_image
        self._directory = directory
        self._suffix = suffix
        self._forced = forced_accelerator
        self._pool = ThreadPoolExecutor(max_workers=max(1, len(self.recipes)), thread_name_prefix="row")
        # One start at a time for every two cores: a guest that shares a core looks hung.
        self._starting = threading.Semaphore(max(1, build_context.slots.cores // 2))
        self._images: Once[str, Image] = Once()
        self._freezer = Freezer(build_context, bus, forced_accelerator)
        self._guests: dict[str, Future[Guest]] = {}
        self._compared: set[str] = set()
        self._lost: Counter[str] = Counter()
        self._fresh = itertools.count(1)

    @cached_property
    def _keys(self) -> RunKeys:
        return RunKeys.make()

    def build(self, names: Sequence[str], compared: Collection[str] = ()) -> None:
        """Start building the images of these rows in the background, and of the siblings of those in `compared`."""
        siblings = [self.recipes[name].kernel.sibling for name in compared]
        for name in dict.fromkeys([*names, *filter(None, siblings)]):
            self._pool.submit(self._prepare, name)

    def begin(self, names: Sequence[str], compared: Collection[str] = ()) -> None:
        """Start preparing these rows in the background, in this order; those under way are left alone.

        The rows in `compared` have cells that ask for their sibling's image: it is prepared before they are ready, so
        that no cell stands still while a kernel is built.
        """
        self._compared.update(compared)
        for name in names:
            if name not in self._guests:
                self._guests[name] = self._pool.submit(self._prepare_and_start, name)

    def image(self, name: str) -> Image:
        """The image of a VM, a row of this run or not, prepared now if need be. Raises what its build raised."""
        return self._prepare(name)

    def ready(self, name: str) -> bool:
        """True when the row's guest is up, or will never be."""
        return name in self._guests and self._guests[name].done()

    def wait_any(self, names: Sequence[str], seconds: float) -> None:
        """Wait until one of these rows is ready, at most so long."""
        wait([self._guests[name] for name in names], timeout=seconds, return_when=FIRST_COMPLETED)

    def guest(self, name: str) -> Guest:
        """The row's guest, begun if need be. Raises what its build or boot raised, each time it is asked for.

        What befell that one guest alone costs the cell that asked first; the next cell gets another, a few times.
        """
        self.begin([name])
        try:
            return self._guests[name].result()
        except _PASSING:
            self._lost[name] += 1
            if self._lost[name] < _MOST_LOST:
                del self._guests[name]
            raise

    @contextmanager
    def fresh(self, name: str, *, cpus: int = 0, anew: bool = False) -> Iterator[Guest]:
        """Another guest of the VM beside the row's own: thawed, or booted anew, which KASLR slides anew.

        It has so many virtual CPUs, by default as many as the recipe says. Raises what its build or boot raises.
        """
        image = self._prepare(name)
        if cpus:
            image = image.with_cpus(cpus)
        begin = self._boot if anew else self._thaw
        with self._starting:
            guest = begin(image, f"{name}{self._suffix}-fresh-{next(self._fresh)}")
        with guest:
            with checkup.explained(guest):
                checkup.begin(guest)
            yield guest

    def drop_frozen(self, image: Image) -> None:
        """Forget the frozen guest of an image: the next to ask boots another."""
        self._freezer.drop(image)

    def retire(self, name: str, because: str = "") -> None:
        """Stop the row's guest; the next `guest()` begins a fresh one. Where there is a reason, it is told."""
        if because:
            with self.bus.step(name, "replace") as step:
                step.close_with(because)
        future = self._guests.pop(name, None)
        if future is not None and future.done() and future.exception() is None:
            future.result().stop()

    def close(self) -> None:
        """Stop every guest and wait for the background to end."""
        for future in self._guests.values():
            future.cancel()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for name in list(self._guests):
            if not self._guests[name].cancelled():
                self.retire(name)

    def _prepare(self, name: str) -> Image:
        return self._images.get(name, lambda: self._made(name))

    def _made(self, name: str) -> Image:
        recipe = self.recipes[name] if name in self.recipes else select([name])[0]
        self._await_image(name)
        with self.bus.clocked(name, IMAGE):
            return prepare(recipe, self._workshop)

    def _prepare_and_start(self, name: str) -> Guest:
        image = self._prepare(name)
        sibling = image.recipe.kernel.sibling
        if sibling and name in self._compared:
            # Raised again to the cells that ask for it, and to no other.
            with suppress(PinpointError):
                self._prepare(sibling)
        with self._starting:
            guest = self._thaw(image, f"{name}{self._suffix}")
            try:
                with checkup.explained(guest):
                    checkup.begin(guest)
            except BaseException:
                guest.stop()
                raise
        return guest

    def _thaw(self, image: Image, log_name: str) -> Guest:
        """A guest that answers, begun where one was frozen whose traits are proved."""

        def boot(keys: RunKeys) -> Guest:
            return start.boot(image, self._options(image, log_name, keys))

        frozen = self._freezer.frozen(image, boot)
        return self._freezer.thaw(image, frozen, self._options(image, log_name, self._keys))

    def _boot(self, image: Image, log_name: str) -> Guest:
        """A guest that answers, booted anew."""
        return start.boot(image, self._options(image, log_name, self._keys))

    def _options(self, image: Image, log_name: str, keys: RunKeys) -> StartOptions:
        """Its console goes to `console/<log_name>.log`."""
        log = self._directory / "console" / f"{log_name}.log"
        return StartOptions.for_image(image, log=log, keys=keys, bus=self.bus, forced_accelerator=self._forced)
