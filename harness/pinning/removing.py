"""Removal of a module in a guest, by the system call itself, and what it answers."""

from __future__ import annotations

from harness.guest.guest import Guest
from harness.pinning.loader import Said

HOLDER = "pinpoint_holder"


def delete(guest: Guest, module: str, *, force: bool = False) -> str:
    """delete_module(2) without waiting: empty when the module is gone, else the errno's name."""
    told = guest.run(guest.program(HOLDER), "force" if force else "delete", module)
    said = Said.parsed(told.stdout.strip())
    return "" if said.word == "did" else said.fields["errno"]
