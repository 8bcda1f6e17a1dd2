"""Frozen guests in the store: booted once, their traits proved, everything shipped; each guest of a row is thawed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.core.deadline import Deadline
from harness.core.errors import BootError
from harness.core.events import Bus, ProgressStep
from harness.guest import qemu, start
from harness.guest.accelerator import Accelerator, choose, host_identity, qemu_version
from harness.guest.emulator import EmulatorKilled, FrozenRefused
from harness.guest.guest import Guest
from harness.guest.keys import RunKeys
from harness.guest.start import StartOptions
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.store import key_of
from harness.landing import traits
from harness.matrix.guests import checkup
from harness.matrix.guests.once import Once

KIND = "frozen"
_STATE = "state"
# A frozen guest takes some 100 MB; what no run thawed for a day is of another kernel, or of other probes.
_KEPT_SECONDS = 24 * 3600.0

Boot = Callable[[RunKeys], Guest]


class Freezer:
    """One frozen guest for each image, machine, accelerator and QEMU, made when it is first asked for."""

    def __init__(self, build_context: BuildContext, bus: Bus, forced_accelerator: str | None) -> None:
        """`bus` hears of the proof of traits."""
        self._workshop = build_context
        self._bus = bus
        self._forced = forced_accelerator
        self._made: Once[str, Path] = Once(passing=(EmulatorKilled,))

    def frozen(self, image: Image, boot: Boot) -> Path:
        """The file to thaw guests of the image from; `boot` starts one to freeze, which lets the given keys in.

        Raises what its boot raises, and when its traits are not so.

        Only this very QEMU with this very command line is ever given it (docs/architecture.md, "Freeze and thaw").
        """
        parts = self._parts(image)
        return self._made.get(key_of(parts), lambda: self._obtain(image, boot, parts))

    def kept(self, image: Image, boot: Boot) -> Path | None:
        """The file of a guest that is frozen already, None where there is none; as `frozen` where it is damaged."""
        return self.frozen(image, boot) if self._workshop.store.present(KIND, self._parts(image)) else None

    def thaw(self, image: Image, frozen: Path, beginning: StartOptions) -> Guest:
        """A guest thawed from such a file; one that none can be thawed from no later run shall meet again.

        Raises as start.thaw() does.
        """
        try:
            return start.thaw(image, frozen, beginning)
        except (FrozenRefused, BootError):
            self.drop(image)
            raise

    def drop(self, image: Image) -> None:
        """Forget the frozen guest of an image, of which none could be thawed: the next to ask boots another."""
        parts = self._parts(image)
        self._workshop.store.drop(KIND, parts)
        self._made.forget(key_of(parts))

    def _parts(self, image: Image) -> list[str]:
        return frozen_parts(image, choose(image.recipe.architecture, self._forced))

    def _obtain(self, image: Image, boot: Boot, parts: list[str]) -> Path:
        store = self._workshop.store
        entry = store.obtain(KIND, parts, vm=image.recipe.name, build=lambda path, step: self._freeze(boot, path, step))
        store.drop_unused(KIND, _KEPT_SECONDS)
        return entry.path / _STATE

    def _freeze(self, boot: Boot, entry: Path, step: ProgressStep) -> Mapping[str, Any]:
        # Keys of its own, which nobody has when it is thawed.
        keys = RunKeys.make()
        with self._proved(boot, keys) as guest:
            step.say("freezing")
            start.freeze(guest, entry / _STATE, Deadline.after(guest.image.recipe.machine.boot_seconds))
            return {"boot_seconds": round(guest.boot_seconds, 3), "bytes": (entry / _STATE).stat().st_size}

    def _proved(self, boot: Boot, keys: RunKeys) -> Guest:
        """A guest that answers and whose traits are proved."""
        try:
            return self._boot_proved(boot, keys)
        except traits.TraitContradictedError as contradiction:
            # A slide is zero by chance once in some 500 boots of an x86_64 kernel; only a second boot tells.
            if contradiction.trait != "kaslr":
                raise
            return self._boot_proved(boot, keys)

    def _boot_proved(self, boot: Boot, keys: RunKeys) -> Guest:
        guest = boot(keys)
        try:
            with self._bus.step(guest.name, "traits") as step, checkup.explained(guest):
                allowed = checkup.begin(guest)
                traits.prove(guest)
                checkup.end(guest)
                step.close_with(allowed)
        except BaseException:
            guest.stop()
            raise
        return guest


def frozen_parts(image: Image, accelerator: Accelerator) -> list[str]:
    """Everything that a frozen guest depends on, for its store key."""
    recipe = image.recipe
    anywhere = qemu.Wiring(
        console=0, monitor=0, console_log=Path("console"), kernel=Path("kernel"), initrd=Path("initrd")
    )
    return [
        image.key,
        qemu_version(recipe.architecture.machine.qemu),
        host_identity(accelerator),
        *qemu.argv(recipe, accelerator, anywhere),
    ]
