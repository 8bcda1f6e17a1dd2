"""Frozen guests in the store: booted once, traits proved, all files shipped. Each guest of a row is thawed from one.

Where QEMU cannot save a machine, each guest is booted, and the traits are proved in the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.core.errors import BootError, PinpointError
from harness.core.events import Bus, ProgressStep
from harness.core.files import code_sha256
from harness.guest import qemu, start
from harness.guest.accelerator import Accelerator, choose, frozen_guest_host_identity, qemu_version_line
from harness.guest.boot_clock_check import GuestClockWrong
from harness.guest.guest import Guest
from harness.guest.keys import RunKeys
from harness.guest.qemu_process import FrozenGuestRefused, QemuKilled
from harness.guest.start import StartOptions
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.store import key_of
from harness.landing import prove_recipe_traits, prove_traits_by_programs
from harness.matrix.guests import check_after_cell
from harness.matrix.guests.loss_before_cell import LostBeforeCell, report_loss_before_first_cell
from harness.matrix.guests.make_once_per_key import Once
from harness.verdict.cell_verdict_enum import Verdict

KIND = "frozen"
_STATE = "state"
# A frozen guest takes some 100 MB. If no run has thawed it for a day, the kernel or the probes have changed since.
_KEPT_SECONDS = 24 * 3600.0

Boot = Callable[[RunKeys], Guest]


class FreezeFailed(PinpointError):
    """The one guest of a row that was booted on another host, to be frozen, ended with this verdict."""

    def __init__(self, verdict: str, reason: str) -> None:
        super().__init__(reason)
        self.verdict = Verdict(verdict)


class Freezer:
    """One frozen guest for each image, machine, accelerator and QEMU, made at the first request."""

    def __init__(self, build_context: BuildContext, bus: Bus, forced_accelerator: str | None) -> None:
        """`bus` carries the events of the proof of traits; `forced_accelerator` is None for the host's best."""
        self._build_context = build_context
        self._bus = bus
        self._forced = forced_accelerator
        self._made: Once[str, Path] = Once(passing=(QemuKilled, GuestClockWrong, LostBeforeCell))
        self._proved_keys: set[str] = set()

    def start_guest(self, image: Image, boot: Boot, options: StartOptions) -> Guest:
        """Start a guest with proved traits: thawed, or booted where QEMU cannot save the machine.

        Raises what `boot` and `thaw` raise, and TraitContradictedError when a trait does not hold.
        """
        if not can_be_frozen(image):
            return self._booted(image, boot, options.keys)
        return self.thaw(image, self.obtain_frozen_state_file(image, boot), options)

    def obtain_frozen_state_file(self, image: Image, boot: Boot) -> Path:
        """Return the file to thaw guests of the image from; `boot` starts the guest to freeze, with the given keys.

        Raises what `boot` raises, and TraitContradictedError when a trait does not hold.

        The file is used only with the same QEMU and the same command line (docs/architecture.md, "Freeze and thaw").
        """
        parts = self._parts(image)
        return self._made.get(key_of(parts), lambda: self._obtain(image, boot, parts))

    def find_frozen_state_file(self, image: Image, boot: Boot) -> Path | None:
        """Return the file of a guest that is frozen already, None when there is none; a damaged one is made again."""
        present = can_be_frozen(image) and self._build_context.store.present(KIND, self._parts(image))
        return self.obtain_frozen_state_file(image, boot) if present else None

    def thaw(self, image: Image, frozen: Path, options: StartOptions) -> Guest:
        """Thaw a guest from such a file. A file that cannot be thawed is dropped, so that no later run uses it.

        Raises what start.thaw() raises.
        """
        self._build_context.store.hold_until_exit(frozen.parent)
        try:
            return start.thaw(image, frozen, options)
        except (FrozenGuestRefused, BootError):
            self.drop(image)
            raise

    def drop(self, image: Image) -> None:
        """Drop the frozen guest of an image; the next request boots one."""
        parts = self._parts(image)
        self._build_context.store.remove(KIND, parts)
        self._made.forget(key_of(parts))

    def _parts(self, image: Image) -> list[str]:
        return frozen_guest_key_parts(image, choose(image.recipe.architecture, self._forced))

    def _obtain(self, image: Image, boot: Boot, parts: list[str]) -> Path:
        store = self._build_context.store
        entry = store.obtain(KIND, parts, vm=image.recipe.name, build=lambda path, step: self._freeze(boot, path, step))
        store.remove_unused_of_kind(KIND, _KEPT_SECONDS)
        return entry.path / _STATE

    def _freeze(self, boot: Boot, entry: Path, step: ProgressStep) -> Mapping[str, Any]:
        # Keys of its own, which no process has any more when guests are thawed.
        keys = RunKeys.make()
        with self._proved(boot, keys) as guest:
            step.publish_progress("freezing")
            start.freeze_running_guest(guest, entry / _STATE, guest.image.recipe.machine.boot_seconds)
            return {"boot_seconds": round(guest.boot_seconds, 3), "bytes": (entry / _STATE).stat().st_size}

    def _booted(self, image: Image, boot: Boot, keys: RunKeys) -> Guest:
        """Boot a guest; prove the traits of the first one of an image with these machine options."""
        key = key_of(self._parts(image))
        if key in self._proved_keys:
            return boot(keys)
        guest = self._proved(boot, keys)
        self._proved_keys.add(key)
        return guest

    def _proved(self, boot: Boot, keys: RunKeys) -> Guest:
        """Boot a guest and prove its traits."""
        try:
            return self._boot_proved(boot, keys)
        except prove_recipe_traits.TraitContradictedError as contradiction:
            # In about one of 500 boots of an x86_64 kernel the slide is zero by chance; a second boot decides.
            if contradiction.trait != "kaslr":
                raise
            return self._boot_proved(boot, keys)

    def _boot_proved(self, boot: Boot, keys: RunKeys) -> Guest:
        guest = boot(keys)
        try:
            with self._bus.step(guest.name, "traits") as step, report_loss_before_first_cell(guest):
                allowed = check_after_cell.record_state_before_first_cell(guest)
                prove_recipe_traits.prove_traits(guest)
                check_after_cell.check_after_cell(guest)
                step.set_final_detail(allowed)
        except BaseException:
            guest.stop()
            raise
        return guest


def can_be_frozen(image: Image) -> bool:
    """True if QEMU can save the machine of this image's guests."""
    return not image.recipe.architecture.qemu_machine.cannot_save_because


def frozen_guest_key_parts(image: Image, accelerator: Accelerator) -> list[str]:
    """Return everything that a frozen guest depends on, for its store key."""
    recipe = image.recipe
    anywhere = qemu.QemuFiles(
        console_descriptor=0,
        monitor_descriptor=0,
        kernel=Path("kernel"),
        initrd=Path("initrd"),
        disk=Path("disk") if image.disk else None,
    )
    return [
        image.key,
        qemu_version_line(recipe.architecture.qemu_machine.qemu),
        frozen_guest_host_identity(accelerator),
        # A guest that was proved by other code is booted and proved again.
        *(code_sha256(Path(str(module.__file__))) for module in (prove_recipe_traits, prove_traits_by_programs)),
        *qemu.argv(recipe, accelerator, anywhere),
    ]
