"""An ftrace-based kprobe in a module leaves nothing behind when the module is removed and loaded again."""

import pytest

from harness.landing.code.instructions import ftrace_site_offset
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.probe_run import Kprobes
from harness.landing.target import Target
from harness.pinning.kprobes_across_module_reload import reload_at_same_address, warm_up_allocations
from harness.verdict.cell_verdict_enum import end_as_known_fail

TIMES = 3
# Bytes of a call on x86, the only architecture of the matrix with ftrace-based kprobes.
CALL = 5
ENABLED = "/sys/kernel/tracing/enabled_functions"


@pytest.mark.requires("kprobes", "ftrace_kprobes")
@pytest.mark.mutants("only-reported", deep=("one-instruction-off",))
def test_gone_on_ftrace(layout: Layout, target: Target, kprobes: Kprobes) -> None:
    """The kprobe is disarmed when its module is removed, so the module loaded again has ftrace's nop there.

    kill_kprobe(), kernel/kprobes.c. A kernel whose recipe documents the defect must leave exactly ftrace's call.
    """
    entry = target.shape_site("leaf")
    elf, symbol = layout.elf_and_symbol(entry)
    patched = ftrace_site_offset(elf, symbol, layout.decoder)
    assert patched is not None, f"{entry} is not traced"
    site = entry.at_offset(patched)
    # Another function: a kernel with the defect leaves a call there.
    warm_up_allocations(layout, target, target.shape_site("static"))
    address, memory = layout.probe_address(site), layout.guest.memory
    before = memory.read(address, CALL)
    with kprobes.on(site) as probes:
        target.call_for_checksum("leaf", TIMES)
        reload_at_same_address(layout, target, site)
        after = memory.read(address, CALL)
        target.call_for_checksum("leaf", TIMES)
    probes.prove(hits=TIMES)
    cause = layout.guest.image.recipe.defects.gone_stays_on_ftrace
    if cause:
        traced = layout.guest.read_text(ENABLED)
        if after == before or not any(line.startswith(f"{site.symbol} [") for line in traced.splitlines()):
            raise Missed(f"{site}: documented defect absent; fixed? {before.hex()} became {after.hex()}: {traced}")
        end_as_known_fail(cause)
    if after != before:
        raise Missed(f"{site}: {before.hex()} is {after.hex()} in the module's next life")
    probes.prove_gone()
