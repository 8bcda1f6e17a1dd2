"""Only the documented oops of a kprobe at the address of a GONE one is recognized, and no other oops."""

import pytest

from harness.verdict.complaints import read_complaints
from harness.verdict.oops_of_second_probe import is_oops_of_second_probe

SITE = 0xC0080000006006A8
# Debian's 6.1.176 for ppc64le, shortened.
OOPS = """\
[    7.104591] Kernel attempted to read user page (0) - exploit attempt? (uid: 0)
[    7.105081] BUG: Kernel NULL pointer dereference on read at 0x00000000
[    7.105141] Faulting instruction address: 0xc000000000054000
[    7.105422] Oops: Kernel access of bad area, sig: 11 [#1]
[    7.106685] NIP:  c000000000054000 LR: c000000000053fe0 CTR: 0000000000000000
[    7.106896] GPR28: c008000000630700 c0080000006006a8 c0000000052fe418 c0080000006006a8
[    7.107252] NIP [c000000000054000] can_optimize+0xe0/0x1c0
[    7.107415] LR [c000000000053fe0] can_optimize+0xc0/0x1c0
[    7.107528] Call Trace:
[    7.107594] [c0000000055876e0] [c00000000406c268] 0xc00000000406c268 (unreliable)
[    7.107705] [c0000000055878d0] [c0000000000542ac] arch_prepare_optimized_kprobe+0x3c/0x400
[    7.107754] [c000000005587990] [c000000000298408] alloc_aggr_kprobe+0x98/0xc0
[    7.107793] [c0000000055879c0] [c00000000029bd88] register_kprobe+0x388/0x840
[    7.109171] ---[ end trace 0000000000000000 ]---
"""


def test_documented_oops() -> None:
    [complaint] = read_complaints(OOPS, timed=True)
    assert is_oops_of_second_probe(complaint, SITE)
    assert not is_oops_of_second_probe(complaint, SITE + 4)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("can_optimize+0xe0", "analyse_instr+0xe0"),
        ("read at 0x00000000", "read at 0x00000010"),
        ("alloc_aggr_kprobe+", "try_to_optimize_kprobe+"),
        ("c0080000006006a8", "c0080000006006ac"),
    ],
)
def test_another_oops(text: str, other: str) -> None:
    [complaint] = read_complaints(OOPS.replace(text, other), timed=True)
    assert not is_oops_of_second_probe(complaint, SITE)
