"""Target modules that stay loaded from one cell to the next, because loading one takes 0.3 s on an emulated parisc.

A cell sees only the modules that it requests. A module is kept only between cells that request it and no other,
because with several loaded modules the last one decides what a plain name means (kallsyms_lookup_name(), 6.1).
"""

from __future__ import annotations

from collections.abc import Collection
from weakref import WeakKeyDictionary

from harness.guest.guest import Guest
from harness.landing.target import Target

_kept: WeakKeyDictionary[Guest, Target] = WeakKeyDictionary()


def unload_unwanted_target(guest: Guest, builds: Collection[str]) -> None:
    """Unload the kept module, unless the cell that begins requests exactly that one. Raises GuestError."""
    if guest in _kept and list(builds) != [_kept[guest].build]:
        _kept.pop(guest).unload()


def acquire(guest: Guest, build: str) -> Target:
    """Return the kept target with its history cleared, or load one now. Raises GuestError."""
    if guest in _kept:
        target = _kept.pop(guest)
        target.previous = {}
    else:
        target = Target(guest, build)
        target.load()
    return target


def keep_if_alone_or_unload(target: Target, *, alone: bool) -> None:
    """Keep the target if it was the cell's only one (`alone`), else unload it. Raises GuestError."""
    if alone:
        _kept[target.guest] = target
    else:
        target.unload()


def names_of_kept_modules(guest: Guest) -> set[str]:
    """Return the names of the modules that are kept in a guest."""
    return {_kept[guest].module} if guest in _kept else set()
