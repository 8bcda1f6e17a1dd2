"""A hang that one of the kernel's own tests causes by a documented defect: a probe on the kernel's own trap handler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from harness.core.errors import GuestError
from harness.core.single_step_defect_types import Defect
from harness.guest.guest import Guest
from harness.verdict.cell_verdict_enum import Verdict
from harness.verdict.liveness import GuestDied

# A test that enables probes on the first functions of /proc/kallsyms that the kernel accepts, whichever they are: on
# how many, and its own pipeline, which lists them.
_PROBED_FUNCTIONS = {"kprobe/multiple_kprobes.tc": 256}
_LIST = r"""grep -i ' t ' /proc/kallsyms | grep -v '\['"""
# Functions that the kernel refuses are passed over. Of the first ones, those of the freed initializer text are refused.
_FREED = ("__init_begin", "__init_end")


@dataclass(frozen=True)
class DocumentedHang:
    """The hang that is expected: its cause, and the address ranges in which each CPU is seen."""

    cause: str
    ranges: tuple[range, ...]

    def is_shown_by(self, lost: Exception) -> bool:
        """Return True if a guest hangs, and its CPUs were seen in these ranges and nowhere else."""
        if not isinstance(lost, GuestDied) or lost.verdict is not Verdict.HANG:
            return False
        seen = lost.diagnosis.cpu_addresses
        return bool(seen) and all(any(address in each for each in self.ranges) for address in seen)


def documented_hang(guest: Guest, test: str) -> DocumentedHang | None:
    """Return the hang that a test causes in a live guest by a documented defect; None if it should cause none.

    The test hangs the guest if the function with the defect is among the first ones that it probes. That depends on the
    order in which the kernel was linked.
    """
    defect, count = guest.architecture.kprobe_traits.defects.get("trap-entry"), _PROBED_FUNCTIONS.get(test)
    if defect is None or count is None:
        return None
    symbols = _text_symbols(guest)
    names = [name for name, _ in symbols]
    start, end = (names.index(name) for name in _FREED)
    # The kernel refuses freed text. If it refuses others too, the test passes them over and probes later ones.
    probed = [name for name in names[:start] + names[end:] if "." not in name][:count]
    return (
        DocumentedHang(defect.cause, tuple(_ranges(guest, symbols, defect))) if defect.hangs_in[0] in probed else None
    )


def _text_symbols(guest: Guest) -> list[tuple[str, int]]:
    """Return the names and addresses of the kernel's text symbols, in the order of their addresses."""
    lines = guest.run_script(_LIST).check().stdout.splitlines()
    return [(name, int(address, 16)) for address, _, name in map(str.split, lines)]


def _ranges(guest: Guest, symbols: list[tuple[str, int]], defect: Defect) -> Iterator[range]:
    """Yield the addresses of the code of each symbol, also the physical ones: a trap begins in physical mode."""
    starts = sorted({address for _, address in symbols})
    for name, start in symbols:
        if name in defect.hangs_in and start != starts[-1]:
            end = next(each for each in starts if each > start)
            yield range(start, end)
            with suppress(GuestError):
                physical = guest.memory.physical_address(start)
                yield range(physical, physical + end - start)
