"""Switches a kernel mutant on in a guest, and checks that it is in force."""

from __future__ import annotations

from harness.core.errors import BootError
from harness.guest.guest import Guest
from harness.images.kernel_mutant_table import PARAMETER_FILE


def switch_on(guest: Guest, number: int) -> None:
    """Switch on one bug in a guest's kernel, before the first case runs. Raises BootError unless it is in force then.

    The guest was booted and its traits were proved without the bug; from now on the cases must detect it.
    """
    seen = guest.run_script(f"echo {number} >{PARAMETER_FILE}; cat {PARAMETER_FILE}").stdout.strip()
    if seen != str(number):
        raise BootError(f"kernel mutant {number} is not in force: {seen or 'the kernel has none'}", where=guest.name)
