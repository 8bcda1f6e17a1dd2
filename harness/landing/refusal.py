"""Sites that the kernel must refuse, and how it must say so."""

from __future__ import annotations

import errno

from harness.landing.landing import Missed
from harness.landing.probing import ProbingIn


def expect_refusal(probing: ProbingIn, spec: str, wanted: int) -> None:
    """Try to register a kprobe on `spec`. Raises Missed unless the kernel refuses with this errno (positive)."""
    got = probing.attempt(spec)
    if got != wanted:
        raise Missed(f"{spec!r}: {_name(got)} instead of {_name(wanted)}")


def _name(number: int) -> str:
    return errno.errorcode.get(number, str(number)) if number else "registered"
