"""Backtraces that a module prints on purpose are distinguished from those of a kernel complaint."""

from __future__ import annotations

import pytest

from harness.core.elf_symbols_and_relocations import Symbol
from harness.verdict import deliberate_dump_stack
from harness.verdict.complaints import read_complaints

X86 = """\
[    1.000000] CPU: 0 PID: 221 Comm: ls Tainted: G           OE      6.1.0 #1
[    1.000001] Call Trace:
[    1.000002]  <TASK>
[    1.000003]  dump_stack_lvl+0x44/0x5c
[    1.000004]  ? do_sys_openat2+0x1/0x170
[    1.000005]  before+0xa/0x11 [who_calls]
[    1.000006]  kprobe_ftrace_handler+0x10b/0x1b0
[    1.000007]  do_sys_openat2+0x5/0x170
[    1.000008]  </TASK>
"""
TAIL_CALL = X86.replace("[    1.000005]  before+0xa/0x11 [who_calls]\n", "")
ARM64 = """\
[    1.000000] Call trace:
[    1.000001]  dump_backtrace+0xe0/0x138
[    1.000002]  show_stack+0x1c/0x2c
[    1.000003]  dump_stack_lvl+0x64/0x80
[    1.000004]  dump_stack+0x14/0x2c
[    1.000005]  before+0xc/0x20 [who_calls]
"""
SYSFS = """\
[    1.000000] sysfs: cannot create duplicate filename '/module/twice_named/sections/.probe.text'
[    1.000001] Call Trace:
[    1.000002]  dump_stack_lvl+0x44/0x5c
[    1.000003]  sysfs_warn_dup.cold+0x17/0x23
"""
WARNING = """\
[    2.000000] ------------[ cut here ]------------
[    2.000001] WARNING: CPU: 0 PID: 2 at who.c:20 warns_init+0x1b/0x1000 [who_calls]
[    2.000002] Call Trace:
[    2.000003]  warns_init+0x1b/0x1000 [who_calls]
[    2.000004] ---[ end trace 0000000000000000 ]---
"""


def intended(log: str, *modules: str) -> list[bool]:
    return [
        deliberate_dump_stack.complaint_is_intended_backtraces(complaint, modules)
        for complaint in read_complaints(log, timed=True)
    ]


def test_a_modules_own_dump_is_no_complaint() -> None:
    assert intended(X86, "who_calls") == [True]
    assert intended(ARM64, "who_calls") == [True]


def test_a_handler_that_ends_in_the_dump_has_no_frame() -> None:
    assert intended(TAIL_CALL, "who_calls") == [True]


@pytest.mark.parametrize(
    "caller",
    [
        "do_one_initcall+0x59/0x220",
        "__do_sys_delete_module+0x1b9/0x330",
        "call_timer_fn+0x27/0x130",
        "process_one_work+0x1c7/0x380",
        "tasklet_action_common.isra.0+0xc0/0x130",
    ],
)
def test_a_function_that_ends_in_the_dump_has_no_frame(caller: str) -> None:
    log = TAIL_CALL.replace("kprobe_ftrace_handler+0x10b/0x1b0", caller)
    assert intended(log, "who_calls") == [True]
    assert intended(log) == [False]
    assert intended(log.replace(caller, "some_driver_poll+0x1/0x2"), "who_calls") == [False]


def test_only_a_module_that_refers_to_it_can_print_a_backtrace() -> None:
    class File:
        def __init__(self, *symbols: tuple[str, str]) -> None:
            self.symbols = [Symbol(name, 0, 0, section, "notype", "global") for name, section in symbols]

    answer = deliberate_dump_stack.module_can_print_backtraces
    assert answer(File(("dump_stack", "")))  # type: ignore[arg-type]
    assert not answer(File(("printk", ""), ("dump_stack_of_mine", "")))  # type: ignore[arg-type]
    assert not answer(File(("dump_stack", ".text")))  # type: ignore[arg-type]


def test_another_modules_dump_is_a_complaint() -> None:
    assert intended(X86, "other") == [False]


def test_many_dumps_are_read_as_one() -> None:
    assert intended(X86 * 3, "who_calls") == [True]
    assert intended(X86 + X86.replace("who_calls", "other"), "who_calls") == [False]


def test_the_kernels_dump_is_a_complaint() -> None:
    (complaint,) = read_complaints(SYSFS, timed=True)
    assert complaint.headline.startswith("sysfs: cannot create duplicate filename")
    assert intended(SYSFS, "twice_named") == [False]


def test_a_trace_without_a_dump_is_a_complaint() -> None:
    assert intended("[    1.000000] Call Trace:\n[    1.000001]  before+0xa/0x11 [who_calls]\n", "who_calls") == [False]


def test_a_warning_behind_the_dumps_is_a_complaint() -> None:
    assert False in intended(X86 + WARNING, "who_calls")
