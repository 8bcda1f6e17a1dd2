"""A uprobe on symbol + offset of a program or a DSO lands in every process that maps the file, and is hit there.

The kernel takes an inode and an offset into the file, and resolves no symbol. The offset comes from the file's own
tables: symbol - segment's address + segment's offset. Where the loader maps the file, at how many addresses and
when, is no part of it.
"""

import pytest

from harness.userspace.probe_run import Uprobes

TIMES = 3
BOUNDARIES = 4
ONE, TWO, RUNNER = "libpinpoint_one.so", "libpinpoint_two.so", "pinpoint_runner"
WAYS = ("tracefs", "module", "perf")


@pytest.mark.requires("uprobes")
@pytest.mark.mutants("user-one-instruction-off", "user-next-symbol", "user-unarmed", "user-other-file")
@pytest.mark.parametrize("way", WAYS)
def test_user_function(uprobes: Uprobes, way: str) -> None:
    """Entry and inner boundaries of a DSO's function, in two processes at two addresses, by each way to register."""
    file = uprobes.file(ONE)
    sites = file.straight(file.site("pinpoint_one_leaf"), BOUNDARIES)
    with uprobes.runner() as first, uprobes.runner() as second:
        with uprobes.on(file, sites, way).before(first, second) as run:
            first.call("pinpoint_one_leaf", TIMES)
            second.call("pinpoint_one_leaf", TIMES + 1)
            run.look(first, second, ask=True)
        run.prove({first: TIMES, second: TIMES + 1})
        run.prove_only_in(first.pid, second.pid)
        run.prove_restored()
        run.prove_private()
