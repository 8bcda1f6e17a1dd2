"""Many modules at once: copies of one that differ in their names, loaded while a block runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.pinning.removing import HOLDER

# A load takes an emulated parisc a tenth of a second, and a debugging kernel as long.
_SECONDS_EACH = 2.0


@contextmanager
def copies(guest: Guest, module: str, count: int) -> Iterator[list[str]]:
    """So many copies of an image's module, loaded while the block runs; gives their names (probes/loader/copies.c).

    Raises GuestError when one cannot be loaded, or removed afterwards.
    """
    deadline = guest.budget(count * _SECONDS_EACH)
    argv = (guest.program(HOLDER), "copies", guest.ship(module), module, str(count))
    with guest.talk(*argv) as dialogue:
        said = dialogue.line(deadline)
        if said != f"did hold {module} copies={count}":
            raise GuestError(f"{count} copies of {module} cannot be loaded: {said}", where=guest.name)
        try:
            yield [f"{module[:-3]}{number:03}" for number in range(count)]
        finally:
            dialogue.line(deadline)
            dialogue.say("go", deadline)
            removed = dialogue.line(guest.budget(count * _SECONDS_EACH))
    if removed != f"did close {module}":
        raise GuestError(f"copies of {module} are not removed: {removed}", where=guest.name)
