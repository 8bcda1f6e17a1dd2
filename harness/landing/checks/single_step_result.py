"""The result of probing one instruction and calling its function, compared with what is documented of the kernel."""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.single_step_defect_types import Defect, Symptom
from harness.landing.landing_judgment import Missed
from harness.landing.site import Site

# A CPU in an endless trap returns to its instruction after each trap. Half of 140 looks found it there, the others in
# the trap's handlers, where one address can be seen more often.
_STANDS = 0.1
STOOD = 8


@dataclass(frozen=True)
class MostFrequentCpuAddress:
    """The address at which the CPU of a lost guest is found most often: `times_found` of `sample_count` found it there.

    `symbol_offset` is the address as symbol + offset. `in_function` is true if the address is in a function of the
    kernel or of a target, `at_probe` if it is the probe's. `others` lists the next addresses, each with its count.
    """

    symbol_offset: str
    times_found: int
    sample_count: int
    in_function: bool
    at_probe: bool = False
    others: str = ""

    @property
    def is_stuck_outside_functions(self) -> bool:
        """True if the CPU stays at an address that is in no function."""
        return self._stands and not self.in_function

    @property
    def is_stuck_at_probe(self) -> bool:
        """True if the CPU returns to the probed instruction again and again."""
        return self._stands and self.at_probe

    @property
    def _stands(self) -> bool:
        return self.times_found >= STOOD and self.times_found >= _STANDS * self.sample_count

    def __str__(self) -> str:
        place = "in" if self.in_function else "outside of"
        others = f" (then {self.others})" if self.others else ""
        return f"{self.times_found} of {self.sample_count} times at {self.symbol_offset}, {place} a function{others}"


@dataclass(frozen=True)
class SingleStepResult:
    """The result of probing one instruction and calling its function `calls` times.

    `unprobed_checksum` and `probed_checksum` are the checksums of the values that the function returned without and
    with the probe. If the guest did not survive the call, `probed_checksum` is "" and `cpu_address` is where its CPU
    was. If the call ended with an error, `probed_checksum` is "", `error` is that error, and `oops` has the headlines
    of what the kernel complained about, if they were read. `inner_hits_and_misses` holds hits and misses of the probe
    on a function that the handler calls. `skipped_checksum` is the checksum without the probe and with a nop in the
    place of the instruction; "" if it was not measured. `exact_hits` is the number of hits of a probe whose handler
    does not run in every call; None for any other probe. `runs` is how often the instruction runs in all calls without
    a probe on it; 0 if it was not counted.
    """

    site: Site
    calls: int
    unprobed_checksum: str
    probed_checksum: str
    hits: int = 0
    missed: int = 0
    cpu_address: MostFrequentCpuAddress | None = None
    inner_hits_and_misses: tuple[int, int] | None = None
    skipped_checksum: str = ""
    exact_hits: int | None = None
    error: str = ""
    oops: str = ""
    runs: int = 0

    @property
    def exact(self) -> bool:
        """True if the probe changed no result and its handler ran in every call, and on every hit.

        The kernel runs no handler for a probe that is hit inside of a handler, and counts it as missed.
        """
        same = self.probed_checksum == self.unprobed_checksum and self.missed == 0
        hit = self.hits >= self.calls if self.exact_hits is None else self.hits == self.exact_hits > 0
        hit = hit and self.hits >= self.runs
        return same and hit and self.inner_hits_and_misses in (None, (0, self.hits))

    def demand_exact(self) -> None:
        """Raise Missed unless the function returned the same as without a probe, with hits and none missed."""
        if not self.exact:
            raise Missed(str(self))

    def demand_symptom(self, defect: Defect) -> None:
        """Raise Missed unless the kernel failed with exactly the documented symptom."""
        if not self._shows(defect):
            fixed = " (the kernel is fixed: remove the defect from the architecture table)" if self.exact else ""
            raise Missed(f"not the documented defect, {defect.symptom.value}{fixed}: {self}")

    def _shows(self, defect: Defect) -> bool:
        match defect.symptom:
            case Symptom.WRONG_RESULT:
                skipped = self.probed_checksum == self.skipped_checksum != self.unprobed_checksum
                return skipped and (self.hits, self.missed) == (self.calls, 0)
            case Symptom.SAME_RESULT_HITS_MISSED:
                return self.probed_checksum == self.unprobed_checksum and (self.hits, self.missed) == (
                    1,
                    self.calls - 1,
                )
            case Symptom.HITS_LOST:
                same = self.probed_checksum == self.unprobed_checksum
                return same and (self.hits, self.missed) == (self.calls, 0) and self.hits < self.runs
            case Symptom.KILLED_BY_OOPS:
                ended = bool(self.error or self.cpu_address)
                return ended and bool(defect.oops) and defect.oops in self.oops
            case Symptom.TRAPS_AT_PROBE:
                return self.cpu_address is not None and self.cpu_address.is_stuck_at_probe
            case Symptom.TRAPS_WITHOUT_END:
                return self.cpu_address is not None and self.cpu_address.is_stuck_outside_functions

    def __str__(self) -> str:
        if self.cpu_address:
            returned = f"returned {self.unprobed_checksum} unprobed, never returned probed"
            return f"{self.site}: {returned}; the CPU is {self.cpu_address}"
        if self.error:
            oops = f"; {self.oops}" if self.oops else ""
            return f"{self.site}: returned {self.unprobed_checksum} unprobed; probed: {self.error}{oops}"
        wanted = "" if self.exact_hits is None else f", not {self.exact_hits},"
        counted = f"hit {self.hits}{wanted} and missed {self.missed} times in {self.calls} calls"
        counted += f" with {self.runs} runs" if self.runs else ""
        inner = ""
        if self.inner_hits_and_misses is not None:
            hits, misses = self.inner_hits_and_misses
            inner = f"; in its handler hit {hits} and missed {misses} times"
        without = f", {self.skipped_checksum} with a nop there" if self.skipped_checksum else ""
        returned = f"returned {self.unprobed_checksum} unprobed, {self.probed_checksum} probed{without}"
        return f"{self.site}: {returned}; {counted}{inner}"
