"""Target modules that stay loaded from one cell to the next: loading one takes an emulated parisc 0.3 s.

A cell sees no module but those that it asked for. One is kept only between cells that ask for it and for no other:
which of several was loaded last decides what a plain name means (kallsyms_lookup_name(), 6.1).
"""

from __future__ import annotations

from collections.abc import Collection
from weakref import WeakKeyDictionary

from harness.guest.guest import Guest
from harness.landing.target import Target

_kept: WeakKeyDictionary[Guest, Target] = WeakKeyDictionary()


def make_room(guest: Guest, builds: Collection[str]) -> None:
    """Unload what is kept in the guest, unless the cell that begins asks for just that. Raises GuestError."""
    if guest in _kept and list(builds) != [_kept[guest].build]:
        _kept.pop(guest).unload()


def acquire(guest: Guest, build: str) -> Target:
    """The kept target, as if this were its first life, or one loaded now. Raises GuestError."""
    if guest in _kept:
        target = _kept.pop(guest)
        target.previous = {}
    else:
        target = Target(guest, build)
        target.load()
    return target


def release(target: Target, *, alone: bool) -> None:
    """Keep a target that was the cell's only one, and unload any other. Raises GuestError."""
    if alone:
        _kept[target.guest] = target
    else:
        target.unload()


def modules(guest: Guest) -> set[str]:
    """The names of the modules that are kept in a guest."""
    return {_kept[guest].module} if guest in _kept else set()
