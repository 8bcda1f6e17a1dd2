"""A kernel mutant switched on in a guest, and that it is in force."""

from __future__ import annotations

from harness.core.errors import BootError
from harness.guest.guest import Guest
from harness.images.kernel_mutants import IN_FORCE


def switch_on(guest: Guest, number: int) -> None:
    """Give a guest's kernel one bug, before the first case has seen it. Raises BootError unless it is in force then.

    The guest was booted without it, and its traits were proved: what fails from now on is for cases to notice.
    """
    seen = guest.script(f"echo {number} >{IN_FORCE}; cat {IN_FORCE}").stdout.strip()
    if seen != str(number):
        raise BootError(f"kernel mutant {number} is not in force: {seen or 'the kernel has none'}", where=guest.name)
