"""Start of a guest: booted or thawed. In both cases init waits for the provisioning line of this run."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harness.core.deadline import Deadline
from harness.core.errors import BootError, DeadlineExceeded, GuestLost, HostError, PinpointError
from harness.core.events import Bus, ProgressStep
from harness.guest import booted_kernel_check, save_and_load_state
from harness.guest.accelerator import Accelerator, choose
from harness.guest.boot_clock_check import GuestClockWrong, check_boot_clock
from harness.guest.guest import Guest
from harness.guest.guest_run_time_limit import GuestRunTimeLimit
from harness.guest.keys import RunKeys
from harness.guest.provisioning_line import READY, WAITING, format_provisioning_line
from harness.guest.qemu_process import QemuProcess
from harness.images.image import Image

_PANIC = r"Kernel panic - not syncing[^\r\n]{0,1024}"
# A panicking kernel prints a trace after this line and then resets; the error shows the trace too.
_PANIC_TAIL_SECONDS = 3.0
_SHOWN_LINES = 15
# How often a guest is booted if its clock is too fast each time.
_MOST_BOOTS = 4
# Name of the CPU seconds of a guest's QEMU in a run's time accounts.
GUEST_CPU = "guest cpu"


@dataclass(frozen=True)
class StartOptions:
    """How a guest starts: console log, keys for the login, accelerator, event bus, and time limit.

    `seconds` limits the time in which the host runs the guest until it answers, and QEMU's own start.
    """

    console_log: Path
    keys: RunKeys
    accelerator: Accelerator
    bus: Bus
    seconds: float

    @classmethod
    def for_image(
        cls, image: Image, *, log: Path, keys: RunKeys, bus: Bus, forced_accelerator: str | None = None
    ) -> StartOptions:
        """Return the options for a guest of `image`: the host's best accelerator, the time limit of the image's recipe.

        Raises what accelerator.choose() raises.
        """
        recipe = image.recipe
        accelerator = choose(recipe.architecture, forced_accelerator)
        return cls(log, keys, accelerator, bus, recipe.machine.boot_seconds)


def boot(image: Image, beginning: StartOptions) -> Guest:
    """Start a guest, wait until it answers, and check that it runs the image's kernel.

    A guest whose clock is too fast is stopped, and another one is booted.

    Raises BootError with the console's last lines when the guest panics, stops, or is not ready in time; GuestError
    when another kernel runs; HostError when QEMU is not installed, does not answer, or is not run by the host;
    GuestClockWrong when the clocks of several guests are too fast.
    """
    for _ in range(_MOST_BOOTS - 1):
        with suppress(GuestClockWrong):
            return _begin(image, beginning, "boot", None)
    return _begin(image, beginning, "boot", None)


def thaw(image: Image, frozen: Path, beginning: StartOptions) -> Guest:
    """Start a guest from the file of `freeze_running_guest`, with all shipped files.

    Raises as `boot` does, and FrozenGuestRefused.
    """
    guest = _begin(image, beginning, "thaw", frozen)
    guest.mark_all_files_copied()
    guest.frozen = frozen.parent.name
    return guest


def freeze_running_guest(guest: Guest, path: Path, seconds: float) -> None:
    """Ship all files, make the guest forget the run, and write it to a new file. The guest is stopped afterwards.

    `seconds` limits the time in which the host runs the guest. Raises BootError when the guest fails before it is
    written, QemuKilled; GuestError when QEMU cannot write the file; HostError when the host does not run the guest or
    QEMU does not answer; OSError.
    """
    limit = GuestRunTimeLimit(guest, seconds)
    try:
        with limit:
            guest.copy_all_files(limit.deadline)
            guest.return_to_provisioning(limit.deadline)
        save_and_load_state.save_guest_state(guest.monitor, path, limit.deadline)
    except (DeadlineExceeded, GuestLost) as failure:
        raise _stopped(guest, limit.explain(failure), "could not be frozen") from None


def _begin(image: Image, beginning: StartOptions, how: str, frozen: Path | None) -> Guest:
    began = time.monotonic()
    beginning.console_log.parent.mkdir(parents=True, exist_ok=True)
    accelerator, seconds = beginning.accelerator, beginning.seconds
    with beginning.bus.step(image.recipe.name, how) as step:
        step.publish_progress(f"under {accelerator.name}: {accelerator.reason}")
        emulator = QemuProcess(
            image,
            console_log=beginning.console_log,
            accelerator=accelerator,
            deadline=Deadline.after(seconds),
            frozen=frozen,
        )
        guest = Guest(image, emulator, accelerator)
        guest.when_stopped = partial(beginning.bus.record_seconds, guest.name, GUEST_CPU)
        limit = GuestRunTimeLimit(guest, seconds)
        try:
            with limit:
                if not frozen:
                    _await_line_of_init(guest, WAITING, limit.deadline)
                _become_ready(guest, beginning.keys, step, limit.deadline, booted=not frozen)
        except (BootError, DeadlineExceeded, GuestLost) as failure:
            raise _stopped(guest, limit.explain(failure), "did not boot") from None
        except BaseException:
            guest.stop()
            raise
        guest.boot_seconds = time.monotonic() - began
        beginning.bus.record_seconds(guest.name, how, guest.boot_seconds)
        step.set_final_detail(f"{image.release} in {guest.boot_seconds:.1f} s under {accelerator.name}")
    return guest


def _become_ready(guest: Guest, keys: RunKeys, step: ProgressStep, deadline: Deadline, *, booted: bool) -> None:
    """Type the provisioning line, wait for init's reply, log in, and check the kernel; after a boot its clock, too."""
    guest.console.type(format_provisioning_line(keys), at_once=guest.architecture.qemu_machine.console_bytes_at_once)
    _await_line_of_init(guest, READY, deadline)
    step.publish_progress("ready, connecting")
    guest.connect(keys, deadline)
    booted_kernel_check.check_booted_kernel(
        guest.image, guest.run_script(booted_kernel_check.IDENTITY_COMMAND, deadline)
    )
    if guest.heartbeat:
        guest.heartbeat.calibrate(partial(guest.run_script, deadline=deadline))
    if booted:
        check_boot_clock(partial(guest.run_script, deadline=deadline))


def _await_line_of_init(guest: Guest, line: str, deadline: Deadline) -> None:
    """Wait for a line of init. Raises BootError when the kernel panics first."""
    if guest.console.await_line([line, _PANIC], deadline).pattern_index:
        # The reset that follows a panic makes the console complete.
        with suppress(PinpointError):
            guest.monitor.wait_event("SHUTDOWN", deadline=deadline.earlier_of(_PANIC_TAIL_SECONDS))
        raise BootError("the kernel panicked")


def _stopped(guest: Guest, failure: PinpointError, what: str) -> PinpointError:
    """Stop the guest and return the failure with the console's last lines and QEMU's messages.

    A failure of the host is returned as it is: it shows nothing about the kernel.
    """
    lines = "\n  ".join(guest.console.last_lines(_SHOWN_LINES)) or "(the console is empty)"
    qemu = f"; QEMU: {messages}" if (messages := guest.qemu_process.qemu_messages()) else ""
    killed = guest.qemu_process.kill_error
    guest.stop()
    if killed or isinstance(failure, HostError):
        return killed or failure
    return BootError(f"{what}: {failure.what}{qemu}\n  {lines}", where=guest.name)
