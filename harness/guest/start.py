"""How a guest begins: booted, or thawed where another was frozen. Either way it waits for this run's word."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harness.core.deadline import Deadline
from harness.core.errors import BootError, DeadlineExceeded, GuestLost, PinpointError
from harness.core.events import Bus, ProgressStep
from harness.guest import identity, state
from harness.guest.accelerator import Accelerator, choose
from harness.guest.emulator import Emulator
from harness.guest.guest import Guest
from harness.guest.keys import RunKeys
from harness.guest.provisioning import READY, WAITING, word
from harness.images.image import Image

_PANIC = r"Kernel panic - not syncing[^\r\n]{0,1024}"
# A panic prints its trace after its first line and then resets; all of that is wanted in the error.
_PANIC_TAIL_SECONDS = 3.0
_SHOWN_LINES = 15
# What a run's ledger calls the processor seconds of a guest's QEMU.
GUEST_CPU = "guest cpu"


@dataclass(frozen=True)
class StartOptions:
    """What a guest begins with: where its console goes, who may log in, what emulates it, who hears of it, how long."""

    log: Path
    keys: RunKeys
    accelerator: Accelerator
    bus: Bus
    deadline: Deadline

    @classmethod
    def for_image(
        cls, image: Image, *, log: Path, keys: RunKeys, bus: Bus, forced_accelerator: str | None = None
    ) -> StartOptions:
        """The options of one guest of `image`: the host's best accelerator, the deadline from the image's recipe.

        Raises what accelerator.choose() raises.
        """
        recipe = image.recipe
        accelerator = choose(recipe.architecture, forced_accelerator)
        return cls(log, keys, accelerator, bus, Deadline.after(recipe.machine.boot_seconds))


def boot(image: Image, beginning: StartOptions) -> Guest:
    """Start a guest and wait until it answers and has proved which kernel it runs.

    Raises BootError with the console's last lines when it panics, stops, or is not ready by the deadline; GuestError
    when another kernel answers; HostError without QEMU.
    """
    return _begin(image, beginning, "boot", None)


def thaw(image: Image, frozen: Path, beginning: StartOptions) -> Guest:
    """Start a guest where `freeze` left one, all that was shipped in it. Raises as `boot` does, and FrozenRefused."""
    guest = _begin(image, beginning, "thaw", frozen)
    guest.has_all()
    guest.frozen = frozen.parent.name
    return guest


def freeze(guest: Guest, path: Path, deadline: Deadline) -> None:
    """Ship everything, have the guest forget the run, and write it to a new file. It stands still afterwards.

    Raises BootError when it does not get that far, EmulatorKilled; GuestError when QEMU cannot write it, OSError.
    """
    try:
        guest.ship_all(deadline)
        guest.forget_run(deadline)
        state.save(guest.monitor, path, deadline)
    except (DeadlineExceeded, GuestLost) as failure:
        raise _stopped(guest, failure, "could not be frozen") from None


def _begin(image: Image, beginning: StartOptions, how: str, frozen: Path | None) -> Guest:
    began = time.monotonic()
    beginning.log.parent.mkdir(parents=True, exist_ok=True)
    accelerator, deadline = beginning.accelerator, beginning.deadline
    with beginning.bus.step(image.recipe.name, how) as step:
        step.say(f"under {accelerator.name}: {accelerator.reason}")
        emulator = Emulator(image, console_log=beginning.log, accelerator=accelerator, deadline=deadline, frozen=frozen)
        guest = Guest(image, emulator, accelerator)
        guest.when_stopped = partial(beginning.bus.spent, guest.name, GUEST_CPU)
        try:
            if not frozen:
                _hear(guest, WAITING, deadline)
            _become_ready(guest, beginning.keys, step, deadline)
        except (BootError, DeadlineExceeded, GuestLost) as failure:
            raise _stopped(guest, failure, "did not boot") from None
        except BaseException:
            guest.stop()
            raise
        guest.boot_seconds = time.monotonic() - began
        beginning.bus.spent(guest.name, how, guest.boot_seconds)
        step.close_with(f"{image.release} in {guest.boot_seconds:.1f} s under {accelerator.name}")
    return guest


def _become_ready(guest: Guest, keys: RunKeys, step: ProgressStep, deadline: Deadline) -> None:
    """The run's word, the console's answer, SSH, proof."""
    guest.console.type(word(keys))
    _hear(guest, READY, deadline)
    step.say("ready, connecting")
    guest.connect(keys, deadline)
    identity.prove(guest.image, guest.script(identity.ASK, deadline))
    if guest.heart:
        guest.heart.calibrate(guest.script)


def _hear(guest: Guest, line: str, deadline: Deadline) -> None:
    """Wait for a line of init's. Raises BootError when the kernel panics first."""
    if guest.console.await_line([line, _PANIC], deadline).index:
        # The reset that follows a panic makes the console complete.
        with suppress(PinpointError):
            guest.monitor.wait_event("SHUTDOWN", deadline=deadline.sooner(_PANIC_TAIL_SECONDS))
        raise BootError("the kernel panicked")


def _stopped(guest: Guest, failure: PinpointError, what: str) -> PinpointError:
    """Stop the guest; what went wrong with the console's last lines, or QEMU's words when it has gone."""
    lines = "\n  ".join(guest.console.last_lines(_SHOWN_LINES)) or "(the console said nothing)"
    qemu = f"; QEMU: {said}" if (said := guest.emulator.said()) else ""
    killed = guest.emulator.killed
    guest.stop()
    return killed or BootError(f"{what}: {failure.what}{qemu}\n  {lines}", where=guest.name)
