"""KUnit's test of kprobes (lib/test_kprobes.c), built from the kernel's own source and read as KTAP."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from harness.core import paths
from harness.core.elf import Elf
from harness.core.errors import GuestError
from harness.core.single_step_defect_types import Defect
from harness.guest.guest import Guest
from harness.matrix.upstream.outcome import End, Outcome

# Its place in the kernel's source: since 6.15 the second one.
SOURCES = ("lib/test_kprobes.c", "lib/tests/test_kprobes.c")
CONFIG = "CONFIG_KUNIT"
# Kernels without CONFIG_KUNIT get a header of ours that runs the same suite: the directory that has kunit/test.h.
RUNNER = paths.CASES / "kunit_runner"
AS_MODULE = RUNNER / "as_module.h"
_SECONDS = 120.0
_RESULT = re.compile(r"^\s+(?P<not>not )?ok (?P<number>\d+) (?:- )?(?P<name>\w+)(?: # SKIP ?(?P<skip>.*))?$")
_PLAN = re.compile(r"^\s+1\.\.(\d+)$")
_TIME = re.compile(r"^(?:<\d+>)?\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ")


def run_suite(guest: Guest, module: Path, only: str) -> list[str]:
    """Load the module, which runs its suite; return the KTAP lines that the kernel printed. Raises GuestError.

    `only` is the one test that the runner of ours runs; it is empty for the kernel's own KUnit, which runs all.
    """
    path = f"/tmp/{module.name}"
    guest.put(module, path)
    parameters = f" only={only}" if only else ""
    script = f"dmesg -c >/dev/null; insmod {path}{parameters} && rmmod {module.stem}; rc=$?; dmesg; exit $rc"
    done = guest.run_script(script, guest.scaled_deadline(_SECONDS)).check()
    return ktap_lines(done.stdout)


def ktap_lines(log: str) -> list[str]:
    """Return the lines of a kernel log without what printk puts before each."""
    return [_TIME.sub("", line) for line in log.splitlines()]


# The function whose entry most tests probe.
PROBED = "kprobe_target"
# The probe of this test is hit by its own handlers, and must count two missed hits.
NESTED_TEST = "test_kprobe_missed"
# The tests of kretprobes compare the value that the probed function returned.
_KRETPROBE_TESTS = ("test_kretprobe", "test_kretprobes")
WRONG_RETURN_VALUE = "return_handler: EXPECTATION FAILED"


def read_result(test: str, lines: list[str]) -> Outcome | None:
    """Return the result of one test of the suite, None if the suite has no such test.

    Raises GuestError for KTAP that has fewer results than its plan, because the others are not known.
    """
    plan = [int(found[1]) for line in lines if (found := _PLAN.match(line))]
    results = {found["name"]: found for line in lines if (found := _RESULT.match(line))}
    if len(plan) != 1 or len(results) != plan[0]:
        shown = "; ".join(line.strip() for line in lines[-5:])
        raise GuestError(f"the KTAP has {len(results)} results and the plan {plan}: {shown}")
    found = results.get(test)
    if found is None:
        return None
    log = tuple(_lines_before(lines, found.string))
    if found["skip"] is not None:
        return Outcome(test, End.NOT_DECIDED, "SKIP", found["skip"])
    if found["not"]:
        why = next((line.strip(" #") for line in log if "EXPECTATION FAILED" in line or "ASSERTION" in line), "")
        return Outcome(test, End.FAIL, "not ok", why, log)
    return Outcome(test, End.PASS, "ok")


def documented_defect(test: str, module: Elf, defects: Mapping[str, Defect]) -> Defect | None:
    """Return the kernel's documented defect that makes a test of the suite fail; None if it should pass.

    The tests of kretprobes probe the entry of PROBED, which divides. On parisc its first instruction calls a
    division routine of millicode (`$$divU_3`), and a call under a probe is skipped.
    """
    defect = defects.get("call")
    if defect is None or test not in _KRETPROBE_TESTS:
        return None
    target = module.function(PROBED)
    called = [each for each in module.relocations(target.section) if each.offset == target.address]
    return defect if any(each.symbol.name.startswith("$$") for each in called) else None


def _lines_before(lines: list[str], result: str) -> list[str]:
    """The lines between the result of the test before and this one's."""
    end = lines.index(result)
    begin = max((index for index in range(end) if _RESULT.match(lines[index])), default=-1)
    return lines[begin + 1 : end + 1]
