"""Defects of kernels that single-step a probed instruction: the symptom to assert and its cause in the source."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Symptom(Enum):
    """Visible effect of the defect when the probed function is called."""

    WRONG_RESULT = "wrong result"
    """The function returns the value that it returns with nops in the places of the skipped instructions; the guest
    survives."""
    TRAPS_WITHOUT_END = "traps forever"
    """The CPU takes the same trap repeatedly and makes no progress: the guest is lost."""
    TRAPS_AT_PROBE = "traps at the probe forever"
    """The same, and the CPU is seen at the probed instruction."""
    KILLED_BY_OOPS = "killed by an oops"
    """The caller of the function is killed by an oops of the kernel, whose headline has the defect's text. The call
    ends with an error, or never."""
    SAME_RESULT_HITS_MISSED = "hits missed"
    """The function returns the correct value, but only its first call hits; the kernel counts the rest as missed."""
    HITS_LOST = "hits lost"
    """The function returns the correct value, but only the first run of the instruction in each call hits; the kernel
    counts no other one, neither as a hit nor as missed."""


@dataclass(frozen=True)
class Defect:
    """One kind of instruction that a kernel single-steps incorrectly.

    `cause` is one line with the kernel file, the lines and the version. `nop` is an instruction without effect, for a
    defect by which the kernel skips instructions: those at `skips`, in bytes from the probed one. `oops` is a part of
    the oops's headline, for a defect that ends in one. `hangs_in` are the text symbols of the kernel in whose code the
    CPU is seen, for a defect of a probe on the kernel's own code; the probe is on the first of them. `ends_probing` is
    true if no probe of the guest runs its handler any more.
    """

    symptom: Symptom
    cause: str
    nop: bytes = b""
    skips: tuple[int, ...] = (0,)
    oops: str = ""
    hangs_in: tuple[str, ...] = ()
    ends_probing: bool = False

    @property
    def fatal(self) -> bool:
        """True when the guest may not survive the defect, or is of no use after it."""
        return self.ends_probing or self.symptom in (
            Symptom.TRAPS_WITHOUT_END,
            Symptom.TRAPS_AT_PROBE,
            Symptom.KILLED_BY_OOPS,
        )
