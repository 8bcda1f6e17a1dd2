"""A kprobe that ftrace placed in a module which is then removed: nothing of it is in the module's next life."""

import pytest

from harness.landing.code.instructions import ftrace_site
from harness.landing.landing import Missed
from harness.landing.layout import Layout
from harness.landing.probe_run import Kprobes
from harness.landing.target import Target
from harness.pinning.across import settle

TIMES = 3
# A call on x86, the one architecture of the matrix where ftrace places kprobes.
CALL = 5


@pytest.mark.requires("kprobes", "ftrace_kprobes")
@pytest.mark.mutants("one-instruction-off", "only-reported")
def test_gone_on_ftrace(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """It is disarmed while its module goes (kill_kprobe(), kernel/kprobes.c): the next life has ftrace's nop there."""
    entry = target.site("leaf")
    elf, symbol = layout.symbol(entry)
    patched = ftrace_site(elf, symbol, layout.decoder)
    assert patched is not None, f"{entry} is not traced"
    site = entry.at(patched)
    settle(target, site)
    address, memory = layout.address(site), layout.guest.memory
    before = memory.read(address, CALL)
    with kprobes.on(site) as probes:
        target.call("leaf", TIMES)
        target.unload()
        target.load()
        after = memory.read(address, CALL)
        target.call("leaf", TIMES)
    assert layout.address(site) == address, "the module's next life stands elsewhere"
    if after != before:
        raise Missed(f"{site}: {before.hex()} is {after.hex()} in the module's next life")
    probes.prove(hits=TIMES)
    probes.prove_gone()
