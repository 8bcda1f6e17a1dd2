"""The guests of a run: images are prepared and guests are started in the background, one guest for each row."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

from harness.core import exception_as_pinpoint_error
from harness.core.errors import BuildError, PinpointError
from harness.core.events import Bus
from harness.guest import start
from harness.guest.boot_clock_check import GuestClockWrong
from harness.guest.guest import Guest
from harness.guest.keys import RunKeys
from harness.guest.qemu_process import FrozenGuestRefused, QemuKilled
from harness.guest.start import StartOptions
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.own_tree_modules import with_own_modules
from harness.images.prepare import prepare
from harness.images.vm_recipe import Recipe, select
from harness.matrix.guests import check_after_cell, kernel_mutant_switch
from harness.matrix.guests.freezer import FreezeFailed, Freezer
from harness.matrix.guests.loss_before_cell import LostBeforeCell, report_loss_before_first_cell
from harness.matrix.guests.make_once_per_key import Once
from harness.report.time_accounts import IMAGE
from harness.verdict.liveness import GuestDied

# Errors that may not occur again with the row's next guest, and how many guests may be lost to them.
_PASSING = (QemuKilled, FrozenGuestRefused, GuestClockWrong, GuestDied, LostBeforeCell)
_MOST_LOST = 3


class Fleet:
    """One guest for each VM, used as long as it is healthy; a retired guest is replaced at the next request."""

    def __init__(
        self,
        recipes: Iterable[Recipe],
        *,
        build_context: BuildContext,
        bus: Bus,
        directory: Path,
        forced_accelerator: str | None,
        suffix: str = "",
        kernel_mutant_number: int = 0,
        image_errors: Mapping[str, str] | None = None,
        freeze_failures: Mapping[str, tuple[str, str]] | None = None,
    ) -> None:
        """`bus` carries the events of guests; the build context's own bus carries those of builds.

        `image_errors` are the errors of images that another process could not build; `freeze_failures` the verdict and
        the reason of each row whose guest failed on another host before it was frozen. If other processes run parts of
        the same rows, `suffix` is appended to the names of this process's console logs.
        """
        self.recipes = {recipe.name: recipe for recipe in recipes}
        self.bus = bus
        self.build_context = build_context
        self._image_errors = image_errors or {}
        self.freeze_failures = dict(freeze_failures or {})
        self._directory = directory
        self._suffix = suffix
        self._forced = forced_accelerator
        self._kernel_mutant = kernel_mutant_number
        self._pool = ThreadPoolExecutor(max_workers=max(1, len(self.recipes)), thread_name_prefix="row")
        # One start at a time for every two cores, because a guest that shares a core looks hung.
        self._starting = threading.Semaphore(max(1, build_context.slots.cores // 2))
        self._images: Once[str, Image] = Once()
        self._builds: dict[str, Future[Image]] = {}
        self._freezer = Freezer(build_context, bus, forced_accelerator)
        self._guests: dict[str, Future[Guest]] = {}
        self._compared: set[str] = set()
        # Called before an image is built here; it may put the image into the store.
        self.obtain_elsewhere: Callable[[Recipe], None] = lambda _: None
        # Called when the image of a row is in the store; it may add a frozen guest. It returns how that guest failed.
        self.freeze_elsewhere: Callable[[Image], tuple[str, str] | None] = lambda _: None
        # True if this process runs no guests, so that it needs no modules of the own tree.
        self.guests_are_elsewhere = False
        self._lost: Counter[str] = Counter()
        self._fresh = itertools.count(1)

    @cached_property
    def _keys(self) -> RunKeys:
        return RunKeys.make()

    def start_building(self, names: Sequence[str], compared: Collection[str] = ()) -> None:
        """Start building the images of these rows in the background, and the sibling's image of each in `compared`."""
        siblings = [self.recipes[name].kernel.sibling for name in compared]
        for name in dict.fromkeys([*names, *filter(None, siblings)]):
            self._builds[name] = self._pool.submit(self._prepare, name)

    def is_image_settled(self, name: str) -> bool:
        """Return True unless `start_building` has begun a build of this image that has not ended."""
        return name not in self._builds or self._builds[name].done()

    def image_error(self, name: str) -> str:
        """Return the error of an image's build, empty if there is none."""
        build = self._builds.get(name)
        error = build.exception() if build and build.done() else None
        return str(exception_as_pinpoint_error.as_pinpoint_error(error)) if error else ""

    def start_preparing(self, names: Sequence[str], compared: Collection[str] = ()) -> None:
        """Start preparing these rows in the background, in this order, unless they are under way.

        The rows in `compared` have cells that need the image of the VM's sibling. That image is prepared before the row
        is ready, so that no cell waits for a kernel build.
        """
        self._compared.update(compared)
        for name in names:
            if name not in self._guests:
                self._guests[name] = self._pool.submit(self._prepare_and_start, name)

    def image(self, name: str) -> Image:
        """Return the image of any VM, with or without a row, prepared if necessary. Raises what its build raised."""
        return self._prepare(name)

    def is_ready(self, name: str) -> bool:
        """Return True when the row's guest is up, or has failed to start."""
        return name in self._guests and self._guests[name].done()

    def wait_until_any_is_ready(self, names: Sequence[str], seconds: float) -> None:
        """Wait until one of these rows is ready, at most `seconds`."""
        wait([self._guests[name] for name in names], timeout=seconds, return_when=FIRST_COMPLETED)

    def guest(self, name: str) -> Guest:
        """Return the row's guest, started if necessary. Each request raises what its build or boot raised.

        An error that concerns only that guest is raised once: the next cell gets a new guest, up to a limit.
        """
        self.start_preparing([name])
        try:
            return self._guests[name].result()
        except _PASSING:
            self._lost[name] += 1
            if self._lost[name] < _MOST_LOST:
                del self._guests[name]
            raise

    @contextmanager
    def start_fresh_guest(self, name: str, *, cpus: int = 0, anew: bool = False) -> Iterator[Guest]:
        """Start one more guest of the VM: thawed, or with `anew` booted, which draws a new KASLR slide.

        `cpus` is its number of virtual CPUs; 0 means the recipe's number. Raises what its build or boot raises.
        """
        image = self._prepare(name)
        if cpus:
            image = image.with_cpus(cpus)
        begin = self._boot if anew else self._thaw
        with self._starting:
            guest = begin(image, self._fresh_name(name))
        with guest:
            with check_after_cell.replace_loss_by_explanation(guest):
                check_after_cell.record_state_before_first_cell(guest)
            yield guest

    def new_console_log_path(self, name: str) -> Path:
        """Return a new path for the console log of one more guest of a VM."""
        return self._directory / "console" / f"{self._fresh_name(name)}.log"

    def _fresh_name(self, name: str) -> str:
        return f"{name}{self._suffix}-fresh-{next(self._fresh)}"

    def drop_frozen(self, image: Image) -> None:
        """Drop the frozen guest of an image from the store: the next request boots one."""
        self._freezer.drop(image)

    def retire(self, name: str, because: str = "") -> None:
        """Stop the row's guest; the next `guest()` starts a new one. The board shows the reason, if there is one."""
        if because:
            with self.bus.step(name, "replace") as step:
                step.set_final_detail(because)
        future = self._guests.pop(name, None)
        if future is not None and future.done() and future.exception() is None:
            future.result().stop()

    def close(self) -> None:
        """Stop every guest and wait for the background threads to end."""
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
        if name in self._image_errors:
            raise BuildError(self._image_errors[name])
        with self.bus.timed(name, IMAGE):
            self.obtain_elsewhere(recipe)
            image = prepare(recipe, self.build_context)
            if not self.guests_are_elsewhere:
                image = with_own_modules(image, self.build_context)
            elif name in self.recipes and (failure := self.freeze_elsewhere(image)):
                self.freeze_failures[name] = failure
            return image

    def _prepare_and_start(self, name: str) -> Guest:
        image = self._prepare(name)
        sibling = image.recipe.kernel.sibling
        if sibling and name in self._compared:
            # The cells that request the image get the error again; other cells do not need it.
            with suppress(PinpointError):
                self._prepare(sibling)
        with self._starting:
            guest = self._thaw(image, f"{name}{self._suffix}")
            try:
                with report_loss_before_first_cell(guest):
                    check_after_cell.record_state_before_first_cell(guest)
            except BaseException:
                guest.stop()
                raise
        return guest

    def _thaw(self, image: Image, log_name: str) -> Guest:
        """Thaw a guest. If necessary, a guest is booted first, its traits are proved, and it is frozen.

        Where QEMU cannot save the machine, the guest is booted.
        """

        def boot(keys: RunKeys) -> Guest:
            return start.boot(image, self._options(image, log_name, keys))

        if failure := self.freeze_failures.get(image.recipe.name):
            raise FreezeFailed(*failure)
        return self._with_bug(self._freezer.start_guest(image, boot, self._options(image, log_name, self._keys)))

    def _boot(self, image: Image, log_name: str) -> Guest:
        """Boot a guest."""
        return self._with_bug(start.boot(image, self._options(image, log_name, self._keys)))

    def _with_bug(self, guest: Guest) -> Guest:
        """Switch on the kernel mutant of this run, if there is one; the guest stops if that fails."""
        if self._kernel_mutant:
            try:
                kernel_mutant_switch.switch_on(guest, self._kernel_mutant)
            except BaseException:
                guest.stop()
                raise
        return guest

    def _options(self, image: Image, log_name: str, keys: RunKeys) -> StartOptions:
        """The options of one guest, whose console goes to `console/<log_name>.log`."""
        log = self._directory / "console" / f"{log_name}.log"
        return StartOptions.for_image(image, log=log, keys=keys, bus=self.bus, forced_accelerator=self._forced)
