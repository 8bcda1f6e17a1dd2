"""Every fault of a guest or its connection has the right verdict and exit status, and no result is lost.

`./pinpoint test faults` runs them by the real command line. Each fault boots one or two guests: about ten minutes for
each VM.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from broken_runs import FAULT_CASES, BrokenRun

from harness.images.vm_recipe import select
from harness.judge_injected_fault_fixture import Judge

VMS = ("x86_64-debian", "parisc")
# Time for two boots, a trigger, and the deadlines that a dead guest misses. 100 MB go through an emulated UART: 32 MB
# took 735 s on a host that ran the guest for a third of the time.
_RUN_SECONDS = 9000.0

# For each case: its verdict, and the exit status of the run if the next cell passes, as it must.
FAULTS = {
    "test_kernel[panic]": ("panic", 1),
    "test_kernel[null_read]": ("oops", 1),
    "test_kernel[bug]": ("oops", 1),
    "test_kernel[warn]": ("oops", 1),
    "test_kernel[spin]": ("hang", 1),
    "test_kernel[deaf]": ("hang", 1),
    "test_kernel[reset]": ("panic", 1),
    "test_kernel[exhaust]": ("oops", 1),
    "test_kernel[drop]": ("oops", 1),
    "test_module_never_returns": ("hang", 1),
    "test_reboot": ("panic", 1),
    "test_out_of_memory": ("oops", 1),
    "test_full_disk": ("harness-error", 3),
    "test_emulator_killed": ("harness-error", 3),
    "test_emulator_stopped": ("harness-error", 3),
    "test_host_does_not_run_it": ("harness-error", 3),
    "test_killed_while_it_freezes": ("harness-error", 3),
    "test_killed_while_it_thaws": ("harness-error", 3),
    "test_ssh_cut": ("harness-error", 3),
    "test_ssh_stalled": ("hang", 1),
    "test_half_a_file": ("harness-error", 3),
    "test_oops_pushed_out": ("oops", 1),
    "test_taint_without_a_complaint": ("oops", 1),
    "test_console_flood": ("pass", 0),
    "test_console_garbage": ("pass", 0),
    "test_forged_on_console": ("pass", 0),
    "test_forged_in_kmsg": ("pass", 0),
    "test_clock_jumps": ("pass", 0),
}


# Verdicts that differ by architecture. parisc 6.1 panics at each fault that it cannot handle (parisc_terminate(),
# arch/parisc/kernel/traps.c).
OTHERWISE = {("parisc", "test_kernel[null_read]"): ("panic", 1)}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize each fault by the VMs of `--vm`.

    The default is one VM that reports everything and one on which most things go wrong.
    """
    victims = metafunc.config.getoption("--vm") or VMS
    metafunc.parametrize("victim", victims)


@pytest.mark.parametrize("case", FAULTS)
def test_fault(case: str, victim: str, tmp_path: Path, judge_fault: Judge) -> None:
    run = BrokenRun(tmp_path)
    function = case.partition("[")[0]
    detail = case.removesuffix("]").partition("[")[2]
    wanted = f"({function} and {detail})" if detail else function
    # In one process, so that the next cell runs after the trigger, on the same guest or on its replacement.
    broken = run.begin("run", "--vm", victim, str(FAULT_CASES), "-n", "0", "-k", f"{wanted} or test_bystander")
    try:
        status = broken.wait(_RUN_SECONDS)
    except subprocess.TimeoutExpired:
        broken.kill()
        status = broken.wait()
    judge_fault(
        case.removeprefix("test_"),
        vm=victim,
        expected=OTHERWISE.get((select([victim])[0].arch, case), FAULTS[case]),
        reported=(run.verdict(case), status),
        lost=run.lost(),
        orphaned=run.orphaned(),
    )
    assert [cell["case"] for cell in run.cells] == [case, "test_bystander"], run.output
    assert run.verdict("test_bystander") == "pass", run.output
