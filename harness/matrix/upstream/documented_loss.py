"""A guest that one of the kernel's own tests hangs or kills by a documented defect of the kernel's kprobes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from harness.core.errors import GuestError
from harness.core.single_step_defect_types import Defect
from harness.guest.guest import Guest
from harness.landing.code.kernel_file import kernel_file
from harness.landing.layout import Layout
from harness.landing.site import Site
from harness.landing.sweep.sweep_plan import defects_of_wrongly_stepped
from harness.matrix.guests.check_after_cell import KernelComplained
from harness.matrix.upstream.ftrace_selftest import PROBED_INSTRUCTIONS
from harness.matrix.upstream.many_probed_functions import PROBED_FUNCTIONS, list_probed_functions
from harness.verdict.cell_verdict_enum import Verdict
from harness.verdict.liveness import GuestDied

_LIST = r"""grep -i ' t ' /proc/kallsyms | grep -v '\['"""
_HANG = frozenset({Verdict.HANG})
_HANG_OR_CRASH = frozenset({Verdict.HANG, Verdict.PANIC, Verdict.OOPS})


@dataclass(frozen=True)
class DocumentedLoss:
    """The loss of a guest that is expected: its cause, its verdicts, and for a hang where each CPU is seen.

    `ranges` are address ranges; if it is empty, a CPU may be seen anywhere. A kernel that continues behind a branch
    that it did not take runs code with the wrong values, and where that ends depends on the build.
    """

    cause: str
    verdicts: frozenset[Verdict] = _HANG
    ranges: tuple[range, ...] = ()

    def is_shown_by(self, lost: Exception) -> bool:
        """Return True if the guest was lost in this way."""
        if not isinstance(lost, (GuestDied, KernelComplained)) or lost.verdict not in self.verdicts:
            return False
        seen = lost.diagnosis.cpu_addresses if isinstance(lost, GuestDied) else ()
        return not self.ranges or (bool(seen) and all(any(address in each for each in self.ranges) for address in seen))


def documented_loss(guest: Guest, test: str) -> DocumentedLoss | None:
    """Return how a selftest loses a live guest by a documented defect; None if the guest should survive it."""
    if test in PROBED_INSTRUCTIONS:
        return _loss_by_instructions(guest, *PROBED_INSTRUCTIONS[test])
    return _loss_by_trap_handling(guest, test) if test in PROBED_FUNCTIONS else None


def documented_loss_by_nested_probe(defects: Mapping[str, Defect]) -> DocumentedLoss | None:
    """Return how a probe that its own handler hits loses a guest with these defects; None if it should survive."""
    defect = defects.get("nested")
    return DocumentedLoss(defect.cause, _HANG_OR_CRASH) if defect else None


def _loss_by_instructions(guest: Guest, function: str, size: int) -> DocumentedLoss | None:
    """Return the loss of a test that probes instructions of a function that the kernel runs with the probes.

    The kernel refuses some of the probes, for example on ftrace's call; the instructions with a defect are not among
    those.
    """
    layout = Layout(guest)
    sites = [site for site in layout.instruction_sites(Site(function)) if site.offset < size]
    causes = [cause for cause in defects_of_wrongly_stepped(layout, sites).values() if cause]
    return DocumentedLoss(causes[0].partition("; ")[2], _HANG_OR_CRASH) if causes else None


def _loss_by_trap_handling(guest: Guest, test: str) -> DocumentedLoss | None:
    """Return the loss of a test that probes the first functions, if one of them handles every trap or breakpoint.

    That depends on the order in which the kernel was linked.
    """
    kprobes = guest.architecture.kprobe_traits
    defect, handlers = kprobes.defects.get("trap-entry"), kprobes.trap_handlers_functions
    if defect is None and not _has_any_function(guest, handlers):
        return None
    probed = list_probed_functions(guest, test)
    if defect and set(defect.hangs_in) & set(probed):
        return DocumentedLoss(defect.cause, ranges=tuple(_ranges(guest, defect)))
    cause = next((handlers[name] for name in probed if name in handlers), "")
    return DocumentedLoss(cause, _HANG_OR_CRASH) if cause else None


def _has_any_function(guest: Guest, names: Collection[str]) -> bool:
    return bool(names) and any(kernel_file(guest.image).symbols_named(name) for name in names)


def _text_symbols(guest: Guest) -> list[tuple[str, int]]:
    """Return the names and addresses of the kernel's text symbols, in the order of their addresses."""
    lines = guest.run_script(_LIST).check().stdout.splitlines()
    return [(name, int(address, 16)) for address, _, name in map(str.split, lines)]


def _ranges(guest: Guest, defect: Defect) -> Iterator[range]:
    """Yield the addresses of the code of each symbol, also the physical ones: a trap begins in physical mode."""
    symbols = _text_symbols(guest)
    starts = sorted({address for _, address in symbols})
    for name, start in symbols:
        if name in defect.hangs_in and start != starts[-1]:
            end = next(each for each in starts if each > start)
            yield range(start, end)
            with suppress(GuestError):
                physical = guest.memory.physical_address(start)
                yield range(physical, physical + end - start)
