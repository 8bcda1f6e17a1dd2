"""Holds a module in a state: in its initializer, in its removal, or loaded in many copies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.core.elf import Elf
from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.landing.code.instructions import first_accepted_offset
from harness.landing.site import Site
from harness.pinning.loader import PROBE, Loader, LoaderLine

_SECONDS = 60.0


@contextmanager
def hold_initializer_at_gate(loader: Loader, gate: str) -> Iterator[None]:
    """Hold the probe's initializer at a gate while the block runs; no later gate may be set.

    The loader waits in the system call meanwhile. The probe prints the gate in the kernel's log
    (probes/pinned/gates.c), so that nothing is guessed. If the block fails, the loader has ended when the error is
    raised. Raises DeadlineExceeded if the gate is never reached.
    """
    guest = loader.guest
    guest.console.await_line([f"{PROBE}: at {gate}"], guest.scaled_deadline(_SECONDS), since=loader.began)
    try:
        yield
    except BaseException:
        _let_go(loader)
        loader.continue_to_end()
        raise
    _let_go(loader)


def _let_go(loader: Loader) -> None:
    loader.guest.run_script(f"echo go >/sys/module/{PROBE}/parameters/open_gate").check()


TARGET = "pinpoint_pins"
HOLDER = "pinpoint_holder"
_FUNCTION = "pinpoint_needed"


def accepted_entry_spec(guest: Guest) -> str:
    """The spec of a function of `pinpoint_pins`; its second instruction if the kernel refuses the first for ftrace."""
    elf = Elf.read_cached(guest.image.modules[TARGET])
    symbol = next(each for each in elf.symbols if each.name == _FUNCTION and each.kind == "func")
    offset = first_accepted_offset(elf, symbol, guest.architecture.kprobe_traits.decoder)
    return Site(_FUNCTION, offset, module=TARGET).spec


def delete_module(guest: Guest, module: str, *, force: bool = False) -> str:
    """Call delete_module(2) without waiting. Returns the errno's name, empty if the module was removed."""
    result = guest.run(guest.copy_program(HOLDER), "force" if force else "delete", module)
    line = LoaderLine.parse(result.stdout.strip())
    return "" if line.word == "did" else line.fields["errno"]


_SECONDS = 60.0


@contextmanager
def module_being_removed(guest: Guest) -> Iterator[None]:
    """Load `pinpoint_pins` and begin to remove it; its exit function waits at a gate while the block runs.

    The gate is printed in the kernel's log (probes/pinned/gates.c), so that nothing is guessed. Raises GuestError if
    the removal fails after the block.
    """
    deadline = guest.scaled_deadline(_SECONDS)
    since = guest.console.position
    guest.run("insmod", guest.copy_module(TARGET), "gates=leaving").check()
    with guest.start_dialogue(guest.copy_program(HOLDER), "delete", TARGET) as removal:
        guest.console.await_line([f"{TARGET}: at leaving"], deadline, since=since)
        try:
            yield
        finally:
            guest.run_script(f"echo go >/sys/module/{TARGET}/parameters/open_gate").check()
            status = removal.await_exit_status(deadline)
    if status:
        raise GuestError(f"{TARGET} was not removed: status {status}", where=guest.name)


# The time limit for each load. It takes a tenth of a second on an emulated parisc, and as long on a debugging kernel.
_SECONDS_EACH = 2.0


@contextmanager
def hold_loaded_copies(guest: Guest, module: str, count: int) -> Iterator[list[str]]:
    """Load `count` copies of an image's module while the block runs; yields their names.

    The copies are made by probes/loader/renamed_module_copies.c. Raises GuestError if one cannot be
    loaded, or cannot be removed after the block.
    """
    deadline = guest.scaled_deadline(count * _SECONDS_EACH)
    argv = (guest.copy_program(HOLDER), "copies", guest.copy_module(module), module, str(count))
    with guest.start_dialogue(*argv) as dialogue:
        line = dialogue.read_line(deadline)
        if line != f"did hold {module} copies={count}":
            raise GuestError(f"{count} copies of {module} could not be loaded: {line}", where=guest.name)
        try:
            yield [f"{module[:-3]}{number:03}" for number in range(count)]
        finally:
            dialogue.read_line(deadline)
            dialogue.send_line("go", deadline)
            removed = dialogue.read_line(guest.scaled_deadline(count * _SECONDS_EACH))
    if removed != f"did close {module}":
        raise GuestError(f"copies of {module} could not be removed: {removed}", where=guest.name)
