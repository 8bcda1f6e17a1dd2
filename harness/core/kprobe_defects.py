"""What a kernel does wrong when it steps a probed instruction: the symptom to assert, and the lines that explain it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Symptom(Enum):
    """How the defect shows when the probed function is called."""

    WRONG_RESULT = "wrong result"
    """The function returns something else than unprobed; the guest lives on."""
    TRAPS_FOR_EVER = "traps for ever"
    """The CPU takes the same trap again and again and does nothing else: the guest is lost."""
    SAME_RESULT_HITS_MISSED = "hits missed"
    """The function returns what it should, but only its first call is a hit; the kernel counts the others as missed."""


@dataclass(frozen=True)
class Defect:
    """One kind of instruction that a kernel steps wrong. `why` is one line with file, lines and version."""

    symptom: Symptom
    why: str

    @property
    def fatal(self) -> bool:
        """True when the guest does not live through it."""
        return self.symptom is Symptom.TRAPS_FOR_EVER
