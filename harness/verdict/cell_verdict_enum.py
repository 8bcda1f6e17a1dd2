"""The verdicts of a cell."""

from __future__ import annotations

from enum import Enum
from typing import NoReturn


class Verdict(Enum):
    """How a cell ended, from the best to the worst. If two apply, the worse is reported."""

    PASS = "pass"
    SKIP = "skip"
    """The VM lacks a trait, which the reason names."""
    KNOWN_FAIL = "known-fail"
    """A documented kernel defect, asserted to fail the documented way."""
    FAIL = "fail"
    OOPS = "oops"
    HANG = "hang"
    PANIC = "panic"
    BOOT_FAIL = "boot-fail"
    HARNESS_ERROR = "harness-error"

    @property
    def acceptable(self) -> bool:
        """True for a cell that does not make the run fail."""
        return self in _GOOD

    @property
    def severity(self) -> int:
        """0 for the best; larger is worse."""
        return _ORDER[self]

    def worse_of(self, other: Verdict) -> Verdict:
        """Return the worse of this verdict and another."""
        return max(self, other, key=lambda verdict: verdict.severity)


_GOOD = frozenset({Verdict.PASS, Verdict.SKIP, Verdict.KNOWN_FAIL})
_ORDER = {verdict: place for place, verdict in enumerate(Verdict)}


def end_as_known_fail(reason: str) -> NoReturn:
    """End the cell as `known-fail`.

    Call it after asserting the exact symptom of the defect, so that a kernel without the defect fails the case.
    `reason` is one line that names the kernel's file and line, its version, and what is wrong there.
    """
    # Imported here: the command line reads verdicts and needs no pytest.
    import pytest

    pytest.xfail(reason)
