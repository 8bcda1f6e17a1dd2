"""The oops of a kprobe that is registered at the address of a GONE one, where can_optimize() reads a freed copy."""

from __future__ import annotations

from collections.abc import Sequence

from harness.images.vm_recipe import BootNoise
from harness.landing.landing_judgment import Missed
from harness.pinning.kprobes_across_module_reload import SecondProbeAtGoneOne
from harness.pinning.loader import LoaderExitStatus
from harness.verdict.complaints import Complaint, read_sorted_complaints

_HEADLINE = "Kernel NULL pointer dereference on read at 0x00000000"
_FUNCTION = "can_optimize"
_CALLERS = ("arch_prepare_optimized_kprobe+0x", "alloc_aggr_kprobe+0x", "register_kprobe+0x")


def is_oops_of_second_probe(complaint: Complaint, address: int) -> bool:
    """True if the kernel died where it prepares a second probe at this address, which is in a register there."""
    text = "\n".join(complaint.lines)
    places = [text.find(caller) for caller in _CALLERS]
    called_in_order = -1 not in places and places == sorted(places)
    at_function = complaint.source_place == _FUNCTION and _HEADLINE in complaint.headline
    return at_function and called_in_order and f"{address:016x}" in text.split()


def demand_oops_of_second_probe(second: SecondProbeAtGoneOne, noise: Sequence[BootNoise]) -> None:
    """Raise Missed unless the loader of the second probe was killed by this oops, and nothing else was printed."""
    complaints = read_sorted_complaints(second.console_output, noise).alarming
    shown = [is_oops_of_second_probe(each, second.address) for each in complaints]
    if second.loader_result.status is not LoaderExitStatus.KILLED or shown != [True]:
        found = "; ".join(map(str, complaints)) or "no complaint"
        raise Missed(
            f"{second.site} at {second.address:#x}: documented defect absent; fixed? the loader ended with "
            f"{second.loader_result}; {found}"
        )
