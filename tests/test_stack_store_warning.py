"""Only the documented WARNING of a second stack frame's store is recognized, and no other WARNING."""

import re

import pytest

from harness.verdict.complaints import read_complaints
from harness.verdict.stack_store_warning import is_stack_store_warning

OUTER, INNER = ("vfs_read", 0x20), ("update_process_times", 0x2C)
# Debian's 6.1.176 for ppc64le, shortened.
WARNING = """\
[   83.296206] WARNING: CPU: 0 PID: 114 at arch/powerpc/lib/sstep.c:3187 emulate_loadstore+0x2c2c/0x3050
[   83.296430] NIP:  c0000000000a84ec LR: c0000000000a89ec CTR: c0000000000a60b0
[   83.296780] NIP [c0000000000a84ec] emulate_loadstore+0x2c2c/0x3050
[   83.296807] LR [c0000000000a89ec] emulate_step+0xdc/0x38c
[   83.296838] Call Trace:
[   83.296851] [c0000000055d6de0] [c0000000055d6e20] 0xc0000000055d6e20 (unreliable)
[   83.296928] [c0000000055d6fd0] [c000000000053550] try_to_emulate+0x60/0xf0
[   83.296956] [c0000000055d7050] [c00000000005390c] kprobe_handler+0x32c/0x3b0
[   83.297010] [c0000000055d7100] [c0000000000095ac] program_check_common_virt+0x2cc/0x320
[   83.297040] --- interrupt: 700 at update_process_times+0x2c/0x110
[   83.297410] NIP [c00000000022bbec] update_process_times+0x2c/0x110
[   83.297458] --- interrupt: 700
[   83.297554] [c0000000055d75c0] [c0000000000239ec] timer_interrupt+0x17c/0x470
[   83.297582] [c0000000055d7620] [c000000000030034] __replay_soft_interrupts+0xb4/0x170
[   83.297616] [c0000000055d77d0] [c000000000030368] replay_soft_interrupts+0x28/0x40
[   83.297642] [c0000000055d77f0] [c00000000002a5b0] interrupt_exit_kernel_prepare+0x200/0x250
[   83.297671] [c0000000055d7830] [c00000000000c9d8] interrupt_return_srr_kernel+0x8/0x124
[   83.297701] --- interrupt: 700 at vfs_read+0x24/0x370
[   83.298095] NIP [c00000000052ab64] vfs_read+0x24/0x370
[   83.298176] [c0000000055d7b90] [c00000000002b000] system_call_exception+0x130/0x250
[   83.298852] ---[ end trace 0000000000000000 ]---
"""


def test_the_documented_warning_is_recognized_only_at_its_places() -> None:
    [complaint] = read_complaints(WARNING, timed=True)
    assert is_stack_store_warning(complaint, OUTER, INNER)
    assert not is_stack_store_warning(complaint, ("vfs_read", 0x24), INNER)
    assert not is_stack_store_warning(complaint, OUTER, ("update_process_times", 0x2))
    assert not is_stack_store_warning(complaint, INNER, OUTER)


def test_the_documented_warning_of_a_kernel_whose_functions_have_dots() -> None:
    """ELFv1: big-endian kernels."""
    [complaint] = read_complaints(re.sub(r"(\w+\+0x)", r".\1", WARNING), timed=True)
    assert ".emulate_loadstore+0x" in complaint.headline
    assert is_stack_store_warning(complaint, OUTER, INNER)
    assert not is_stack_store_warning(complaint, INNER, OUTER)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("emulate_loadstore+0x2c2c", "emulate_update_regs+0x2c2c"),
        ("WARNING: CPU: 0 PID: 114", "kernel BUG"),
        ("replay_soft_interrupts+0x28", "timer_interrupt+0x28"),
        ("interrupt_exit_kernel_prepare+", "interrupt_exit_user_prepare+"),
        ("700 at vfs_read+0x24", "700 at vfs_read+0x20"),
        ("700 at update_process_times+0x2c", "900 at update_process_times+0x2c"),
    ],
)
def test_another_complaint_is_not_recognized(text: str, other: str) -> None:
    found = read_complaints(WARNING.replace(text, other), timed=True)
    assert not any(is_stack_store_warning(each, OUTER, INNER) for each in found)
