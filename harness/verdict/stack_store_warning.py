"""The WARNING of a PowerPC kernel that emulates a second store of a stack frame before it has done the first."""

from __future__ import annotations

import re

from harness.verdict.complaint_kinds import ComplaintKind
from harness.verdict.complaints import Complaint

# From the inner trap to the outer one. The outer trap's address is that of the instruction after the probed one, so the
# kernel has emulated it, and it is on its way back from this trap. A big-endian kernel prints a dot before a function.
_FRAMES = (
    r"NIP \[\w+\] \.?emulate_loadstore\+0x",
    r"\] \.?try_to_emulate\+0x",
    r"\] \.?kprobe_handler\+0x",
    r"interrupt: 700 at \.?{inner}\+0x{inner_offset:x}/",
    r"\] \.?replay_soft_interrupts\+0x",
    r"\] \.?interrupt_exit_kernel_prepare\+0x",
    r"interrupt: 700 at \.?{outer}\+0x{after_outer_offset:x}/",
)
_AT_FUNCTION = re.compile(r" \.?emulate_loadstore\+0x")
_INSTRUCTION = 4


def is_stack_store_warning(complaint: Complaint, outer: tuple[str, int], inner: tuple[str, int]) -> bool:
    """True if the probe `inner` was hit by an interrupt that was handled at the return from the trap of `outer`.

    Each is the symbol and the offset of a probe on an instruction that makes a stack frame.
    """
    patterns = (
        each.format(
            inner=re.escape(inner[0]),
            inner_offset=inner[1],
            outer=re.escape(outer[0]),
            after_outer_offset=outer[1] + _INSTRUCTION,
        )
        for each in _FRAMES
    )
    frames = re.compile("(?s)" + ".*?".join(patterns))
    if complaint.kind is not ComplaintKind.WARNING or not _AT_FUNCTION.search(complaint.headline):
        return False
    return frames.search("\n".join(complaint.lines)) is not None
