"""The end of the kernel's own tests is read from what they print, and what cannot be read is an error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.core.architecture_defects import MIPS_DEFECTS
from harness.core.errors import GuestError, GuestLost
from harness.core.single_step_defect_types import Defect, Symptom
from harness.guest.result import Result
from harness.images import kernel_samples
from harness.landing.landing_judgment import Missed
from harness.matrix.upstream import documented_failure as documented_failure_module
from harness.matrix.upstream import ftrace_selftest, kunit
from harness.matrix.upstream.documented_failure import (
    cause_of_forgotten_probe,
    cause_of_refused_entry,
    documented_failure,
)
from harness.matrix.upstream.documented_loss import (
    DocumentedLoss,
    documented_loss,
    documented_loss_by_nested_probe,
)
from harness.matrix.upstream.ftrace_selftest import read_end
from harness.matrix.upstream.kunit import read_result
from harness.matrix.upstream.outcome import End, Outcome
from harness.verdict.complaint_kinds import ComplaintKind
from harness.verdict.complaints import Complaint
from harness.verdict.liveness import Condition, Diagnosis, GuestDied

TEST = "kprobe/profile.tc"
LOG = ["execute: profile.tc", "+ echo p vfs_read", "Required feature interface error_log doesn't exist."]


def summary(**counts: int) -> str:
    """What ftracetest prints at its end, with these counts."""
    words = ("passed", "failed", "unresolved", "untested", "unsupported", "xfailed", "undefined(test bug)")
    lines = [f"# of {word}:  {counts.get(word.partition('(')[0], 0)}" for word in words]
    return "\n".join(["=== Ftrace unit tests ===", "[1] Kprobe profile\t[...]", "", *lines, ""])


@pytest.mark.parametrize(
    ("counts", "status", "end"),
    [
        ({"passed": 1}, 0, End.PASS),
        ({"failed": 1}, 1, End.FAIL),
        ({"undefined": 1}, 1, End.FAIL),
        ({"unresolved": 1}, 0, End.NOT_DECIDED),
        ({"untested": 1}, 0, End.NOT_DECIDED),
        ({"unsupported": 1}, 0, End.NOT_DECIDED),
        ({"xfailed": 1}, 0, End.EXPECTED_FAIL),
        # A test that is also run in an instance has two results; the worse one counts.
        ({"passed": 1, "failed": 1}, 1, End.FAIL),
        ({"passed": 1, "unsupported": 1}, 0, End.NOT_DECIDED),
    ],
)
def test_each_end_of_a_selftest(counts: dict[str, int], status: int, end: End) -> None:
    assert read_end(TEST, status, summary(**counts), LOG).end is end


STOPPED = "=== Ftrace unit tests ===\n[1] Kprobe profile\t[FAIL]\nA failure detected. Stop test.\n"


def test_a_failure_at_which_the_runner_stops_is_an_error() -> None:
    """So it ends where the shell takes `[ 0 -ne 0 -a 1 -ne 0 ]` for true; nothing that this shell runs is believed."""
    for printed, status in ((STOPPED, 1), (STOPPED, 0), (STOPPED.replace("[FAIL]", "[PASS]"), 1)):
        with pytest.raises(GuestError, match="ended with status"):
            read_end(TEST, status, printed, LOG)


@pytest.mark.parametrize(
    ("printed", "status"),
    [
        (summary(passed=1), 1),  # The status does not agree.
        (summary(failed=1), 0),
        (summary(), 0),  # No test ran.
        ("Error: this must be run by root user", 1),
        (summary(passed=1).replace("# of xfailed:  0\n", ""), 0),  # Cut.
        ("", 0),
    ],
)
def test_an_output_without_an_end_is_an_error(printed: str, status: int) -> None:
    with pytest.raises(GuestError, match=r"kprobe/profile\.tc: ftracetest ended with status"):
        read_end(TEST, status, printed, LOG)


def test_a_failure_shows_its_last_command_and_a_skip_its_reason() -> None:
    failed = read_end(TEST, 1, summary(failed=1), [*LOG, "+ grep hits trace"])
    assert failed.why == "its last command: grep hits trace"
    with pytest.raises(Missed, match=r"test\.d/kprobe/profile\.tc: FAILED: its last command: grep hits trace"):
        failed.raise_failure()
    skipped = read_end(TEST, 0, summary(unsupported=1), LOG)
    skipped.raise_failure()
    with pytest.raises(pytest.skip.Exception, match=r"UNSUPPORTED: Required feature interface error_log"):
        skipped.end_cell("6.1.0")
    with pytest.raises(pytest.xfail.Exception, match=r"profile\.tc \(6\.1\.0\): its author expects"):
        read_end(TEST, 0, summary(xfailed=1), LOG).end_cell("6.1.0")
    read_end(TEST, 0, summary(passed=1), LOG).end_cell("6.1.0")


def test_selftests_of_other_things_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / ftrace_selftest.DIRECTORY / ftrace_selftest.TESTS
    for name, text in {
        "kprobe/a.tc": "echo",
        "dynevent/b.tc": "# requires: kprobe_events",
        "dynevent/c.tc": "echo 'p:u uprobe_events'",
        "trigger/d.tc": "echo trigger",
        "functions": "kprobe_events",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    assert ftrace_selftest.tests_in(tmp_path) == ["dynevent/b.tc", "dynevent/c.tc", "kprobe/a.tc"]


KTAP = """\
KTAP version 1
1..1
    KTAP version 1
    # Subtest: kprobes_test
    1..4
    ok 1 test_kprobe
    # test_kprobes: EXPECTATION FAILED at lib/test_kprobes.c:96
    Expected current_test->status == 0
    not ok 2 test_kprobes
    ok 3 - test_kretprobe
    ok 4 test_kretprobes # SKIP no kretprobes
# kprobes_test: pass:2 fail:1 skip:1 total:4
not ok 1 kprobes_test""".splitlines()


def test_each_result_of_a_suite() -> None:
    results = {name: read_result(f"test_{name}", KTAP) for name in ("kprobe", "kprobes", "kretprobe", "kretprobes")}
    ends = {name: result and result.end for name, result in results.items()}
    assert ends == {"kprobe": End.PASS, "kprobes": End.FAIL, "kretprobe": End.PASS, "kretprobes": End.NOT_DECIDED}
    assert read_result("test_other", KTAP) is None
    failed, skipped = results["kprobes"], results["kretprobes"]
    assert failed is not None
    assert skipped is not None
    assert failed.why == "test_kprobes: EXPECTATION FAILED at lib/test_kprobes.c:96"
    assert skipped.why == "no kretprobes"
    with pytest.raises(Missed, match="Expected current_test->status == 0"):
        failed.raise_failure()


@pytest.mark.parametrize("lines", [KTAP[:-4], KTAP[5:], [], KTAP[:5]])
def test_a_suite_that_was_cut_is_an_error(lines: list[str]) -> None:
    with pytest.raises(GuestError, match="the KTAP has"):
        read_result("test_kprobe", lines)


def test_times_of_the_kernel_log_are_removed() -> None:
    assert kunit.ktap_lines("[   12.345678]     ok 1 test_kprobe\n<6>[ 1.2][ T12]     1..4\nplain") == [
        "    ok 1 test_kprobe",
        "    1..4",
        "plain",
    ]


def test_a_module_of_one_source_file_finds_our_headers_first(tmp_path: Path) -> None:
    source = tmp_path / "test_kprobes.c"
    source.write_text("/* suite */\n")
    kernel_samples.write_module_source(source, tmp_path / "module", headers=kunit.RUNNER, preincluded=kunit.AS_MODULE)
    kbuild = (tmp_path / "module" / "Kbuild").read_text().splitlines()
    assert kbuild == [
        "obj-m := test_kprobes.o",
        "LINUXINCLUDE := -I$(src)/headers $(LINUXINCLUDE)",
        "ccflags-y := -include $(src)/as_module.h",
    ]
    assert (tmp_path / "module" / "headers" / "kunit" / "test.h").is_file()
    assert (tmp_path / "module" / "test_kprobes.c").read_text() == "/* suite */\n"


def test_a_documented_failure_is_exactly_that() -> None:
    why = f"{kunit.WRONG_RETURN_VALUE} at test_kprobes.c:156"
    Outcome("test_kretprobe", End.FAIL, "not ok", why).demand_failure(kunit.WRONG_RETURN_VALUE, "a cause")
    for other in (Outcome("t", End.PASS, "ok"), Outcome("t", End.FAIL, "not ok", "t: EXPECTATION FAILED at x.c:1")):
        with pytest.raises(Missed, match="a cause"):
            other.demand_failure(kunit.WRONG_RETURN_VALUE, "a cause")


def test_a_documented_failure_is_at_its_command() -> None:
    log = (*LOG, "+ cat trace", "+ grep -q '<- kernel_clone'", "+ grep testprobe2")
    Outcome("t", End.FAIL, "FAILED", "", log).demand_failure_at("grep -q '<- kernel_clone'", "a cause")
    for end, lines in ((End.PASS, log), (End.FAIL, (*LOG, "+ cat trace")), (End.FAIL, (*log, *LOG, *LOG))):
        with pytest.raises(Missed, match="not at `grep -q '<- kernel_clone'`, as it fails by a cause"):
            Outcome("t", end, "X", "", lines).demand_failure_at("grep -q '<- kernel_clone'", "a cause")


@pytest.mark.parametrize(
    ("name", "command"), [("__cfi_tracefs_create_dir", "echo 'p:testprobe 0xffff8010'"), ("tracefs_create_dir", "")]
)
def test_only_a_preamble_is_a_wrong_probe_point(name: str, command: str) -> None:
    guest = SimpleNamespace(run=lambda *_: Result("a-vm", (), 0, f"ffff8010 t {name}\n".encode(), b"", 0.0))
    found = documented_failure(cast(Any, guest), "kprobe/probepoint.tc")
    assert (found.command if found else "") == command
    absent = SimpleNamespace(run=lambda *_: Result("a-vm", (), 1, b"", b"", 0.0))
    assert documented_failure(cast(Any, absent), "kprobe/probepoint.tc") is None


@pytest.mark.parametrize("test", ["kprobe/kprobe_args_string.tc", "direct/kprobe-direct.tc"])
@pytest.mark.parametrize("hits", ["0", "3", ""])
def test_only_without_a_hit_a_test_should_fail(test: str, hits: str) -> None:
    guest = SimpleNamespace(run_script=lambda _: Result("a-vm", (), 0, f"{hits}\n".encode(), b"", 0.0))
    assert bool(documented_failure(cast(Any, guest), test)) is (hits == "0")


def accept_the_next_instruction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the code of each function but `unknown` begin with four bytes on which the kernel refuses a probe."""
    function = SimpleNamespace(kind="func")
    elf = SimpleNamespace(symbols_named=lambda name: [] if name == "unknown" else [function])
    monkeypatch.setattr(documented_failure_module, "kernel_file", lambda _: elf)
    monkeypatch.setattr(documented_failure_module, "Elf", SimpleNamespace(read=lambda _: elf))
    monkeypatch.setattr(documented_failure_module, "first_accepted_offset", lambda *_: 4)


@pytest.mark.parametrize(
    ("command", "printed", "traced", "refused"),
    [
        ("echo 'p:testprobe eventfs_create_dir arg1=+0(%a0):string'", "next", False, "eventfs_create_dir"),
        ("echo p:myevent kernel_clone", "next", False, "kernel_clone"),
        ("echo 'r:testprobe2 kernel_clone $retval'", "next", False, "kernel_clone"),
        ("echo p:myevent kernel_clone", "entry next", False, ""),
        ("echo p:myevent kernel_clone", "", False, ""),
        ("echo p:myevent kernel_clone", "next", True, ""),
        ("echo p:myevent kernel_clone+4", "next", False, ""),
        ("echo p:myevent unknown", "next", False, ""),
        ("echo 'p trace_printk:trace_printk_irq_work'", "next", False, "trace_printk:trace_printk_irq_work"),
        ("echo 'p other:trace_printk_irq_work'", "next", False, ""),
        ("grep -q kernel_clone trace", "next", False, ""),
    ],
)
def test_only_a_probe_that_its_entry_refuses_is_refused(
    monkeypatch: pytest.MonkeyPatch, command: str, printed: str, traced: bool, refused: str
) -> None:
    accept_the_next_instruction(monkeypatch)
    guest: Any = SimpleNamespace(
        image=None,
        architecture=SimpleNamespace(kprobe_traits=SimpleNamespace(decoder=None)),
        traits=SimpleNamespace(traced_entry_kprobes=traced),
        run_script=lambda _: Result("a-vm", (), 0, printed.replace(" ", "\n").encode(), b"", 0.0),
    )
    failed = read_end(TEST, 1, summary(failed=1), [*LOG, f"+ {command}"])
    modules = [Path("trace-printk.ko")]
    assert (f"the entry of {refused}()," in cause_of_refused_entry(guest, failed, modules)) is bool(refused)
    assert not cause_of_refused_entry(guest, replace(failed, end=End.PASS), modules)


BEHIND_A_COPY = ("[   15.051842] epc   : ffffffffc000000c 0xffffffffc000000c",)
IN_A_FUNCTION = ("[   15.051842] epc   : ffffffff80142574 __do_sys_clone+0x8c/0xc8",)
BREAK = Complaint(ComplaintKind.FAULT, "Break instruction in kernel code[#1]:", "", BEHIND_A_COPY)
OTHER = Complaint(ComplaintKind.WARNING, "kernel/kprobes.c:1 f+0x1/0x2", "", ())


@pytest.mark.parametrize(
    ("complaints", "defects", "known"),
    [
        ([BREAK], MIPS_DEFECTS, True),
        ([BREAK, BREAK], MIPS_DEFECTS, True),
        ([BREAK, OTHER], MIPS_DEFECTS, False),
        ([replace(BREAK, lines=IN_A_FUNCTION)], MIPS_DEFECTS, False),
        ([], MIPS_DEFECTS, False),
        ([BREAK], {}, False),
    ],
)
def test_only_an_oops_behind_a_copy_is_a_forgotten_probe(
    monkeypatch: pytest.MonkeyPatch, complaints: list[Complaint], defects: dict[str, Defect], *, known: bool
) -> None:
    monkeypatch.setattr(documented_failure_module, "complaints_since_check", lambda _: tuple(complaints))
    architecture = SimpleNamespace(kprobe_traits=SimpleNamespace(defects=defects))
    guest: Any = SimpleNamespace(name="a-vm", architecture=architecture)
    assert bool(cause_of_forgotten_probe(guest)) is known


HANGS = Defect(Symptom.TRAPS_WITHOUT_END, "a cause", hangs_in=("handler", "vector"))
EXPECTED = DocumentedLoss("a cause", ranges=(range(0x1000, 0x1100), range(0x100, 0x200)))


@pytest.mark.parametrize(
    ("condition", "addresses", "documented"),
    [
        (Condition.HARD_HANG, (0x1000, 0x10FC, 0x100), True),
        (Condition.SOFT_HANG, (0x100,), True),
        (Condition.HARD_HANG, (0x1000, 0x1100), False),
        (Condition.HARD_HANG, (), False),
        (Condition.PANICKED, (0x1000,), False),
        (Condition.OUR_FAULT, (0x1000,), False),
    ],
)
def test_a_documented_hang_is_exactly_that(condition: Condition, addresses: tuple[int, ...], documented: bool) -> None:
    assert EXPECTED.is_shown_by(GuestDied(Diagnosis(condition, "", addresses), where="a-vm")) is documented


@pytest.mark.parametrize(
    ("condition", "documented"),
    [
        (Condition.HARD_HANG, True),
        (Condition.PANICKED, True),
        (Condition.OOPSED, True),
        (Condition.QEMU_DIED, False),
        (Condition.OUR_FAULT, False),
    ],
)
def test_a_nested_probe_loses_the_guest_in_any_way_of_a_kernel(condition: Condition, documented: bool) -> None:
    loss = documented_loss_by_nested_probe({"nested": HANGS})
    assert loss is not None
    assert loss.is_shown_by(GuestDied(Diagnosis(condition, "", (0x1,)), where="a-vm")) is documented
    assert documented_loss_by_nested_probe({"nested-twice": HANGS}) is None


def test_a_loss_without_a_diagnosis_is_no_documented_hang() -> None:
    assert not EXPECTED.is_shown_by(GuestLost("the console closed"))


def test_a_test_that_ends_is_no_documented_hang() -> None:
    with pytest.raises(Missed, match=r"profile\.tc: PASSED, and the guest survived, as it does not by a cause"):
        read_end(TEST, 0, summary(passed=1), LOG).demand_loss("a cause")


MANY = "kprobe/multiple_kprobes.tc"
LISTED = ["_text", "vector", "handler", "vfs_read"]


def guest_that_registers(names: list[str], traits: SimpleNamespace) -> Any:  # noqa: ANN401 - a part of a guest
    """Return a guest in which the functions that the selftest registers are these."""
    symbols = "".join(f"{0x10000000 + 16 * number:08x} t {name}\n" for number, name in enumerate(LISTED))

    def run_script(script: str, _deadline: object = None) -> Result:
        printed = "\n".join(names) if "kprobe_events" in script else symbols
        return Result("a-vm", (), 0, printed.encode(), b"", 0.0)

    return SimpleNamespace(
        architecture=SimpleNamespace(kprobe_traits=traits),
        run_script=run_script,
        scaled_deadline=lambda seconds: seconds,
        memory=SimpleNamespace(physical_address=lambda address: address - 0x10000000),
    )


@pytest.mark.parametrize(
    ("test", "defects", "names", "hangs"),
    [
        (MANY, {"trap-entry": HANGS}, ["vfs_read", "handler"], True),
        (MANY, {"trap-entry": HANGS}, ["vfs_read"], False),
        (MANY, {}, ["handler"], False),
        (TEST, {"trap-entry": HANGS}, ["handler"], False),
    ],
)
def test_only_a_test_that_probes_the_trap_handler_should_hang(
    test: str, defects: dict[str, Defect], names: list[str], hangs: bool
) -> None:
    traits = SimpleNamespace(defects=defects, trap_handlers_functions={})
    found = documented_loss(guest_that_registers(names, traits), test)
    assert bool(found) is hangs
    if found:
        wanted = [range(offset, offset + 16) for offset in (16, 32)]
        assert [each for each in found.ranges if each.start < 0x10000000] == wanted
        assert range(0x10000010, 0x10000020) in found.ranges


@pytest.mark.parametrize(
    ("shown", "accepted", "traced", "documented"),
    [
        ("read i", 256, False, True),
        ("read i", 255, False, False),
        ("read i", 256, True, False),
        ("grep hits trace", 256, False, False),
    ],
)
def test_too_few_functions_are_a_known_failure_if_the_next_instructions_are_enough(
    monkeypatch: pytest.MonkeyPatch, *, shown: str, accepted: int, traced: bool, documented: bool
) -> None:
    accept_the_next_instruction(monkeypatch)
    guest = guest_that_registers(["f"] * accepted, SimpleNamespace(decoder=None))
    guest.image = None
    guest.traits = SimpleNamespace(traced_entry_kprobes=traced)
    failed = read_end(MANY, 1, summary(failed=1), [*LOG, f"+ {shown}"])
    assert bool(cause_of_refused_entry(guest, failed)) is documented


@pytest.mark.parametrize(("names", "cause"), [(["vfs_read", "do_trap"], "a cause"), (["vfs_read"], "")])
def test_a_test_that_probes_what_each_breakpoint_runs_loses_the_guest(
    monkeypatch: pytest.MonkeyPatch, names: list[str], cause: str
) -> None:
    kernel = SimpleNamespace(symbols_named=lambda name: [name] if name == "do_trap" else [])
    monkeypatch.setattr("harness.matrix.upstream.documented_loss.kernel_file", lambda _: kernel)
    traits = SimpleNamespace(defects={}, trap_handlers_functions={"do_trap": "a cause"})
    guest = guest_that_registers(names, traits)
    guest.image = None
    found = documented_loss(guest, MANY)
    assert (found.cause if found else "") == cause
    assert not found or found.is_shown_by(GuestDied(Diagnosis(Condition.PANICKED, ""), where="a-vm"))


def test_a_kernel_without_such_a_function_registers_no_probes_before_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = SimpleNamespace(symbols_named=lambda _: [])
    monkeypatch.setattr("harness.matrix.upstream.documented_loss.kernel_file", lambda _: kernel)
    traits = SimpleNamespace(defects={}, trap_handlers_functions={"do_trap": "a cause"})
    guest = SimpleNamespace(architecture=SimpleNamespace(kprobe_traits=traits), image=None)
    assert documented_loss(cast(Any, guest), MANY) is None
