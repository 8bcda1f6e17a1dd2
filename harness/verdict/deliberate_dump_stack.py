"""Backtraces that a module prints on purpose: dump_stack() in its own code is no complaint of the kernel."""

from __future__ import annotations

import re
from collections.abc import Collection

from harness.core.elf import Elf
from harness.verdict.complaint_kinds import ComplaintKind
from harness.verdict.complaints import MOST_LINES, Complaint

# The heading of a trace; on ARM its first line.
_HEAD = re.compile(r"\s*(?:Call Trace:|Call trace:|Backtrace:|Stack trace:|unwind_backtrace from )")
# `function+0x1/0x20 [module]`; `? ` marks a value that only looks like a return address.
_FRAME = re.compile(
    r"(?P<doubtful>\? )?\.?(?P<function>[A-Za-z_][\w.$]*)\+0x[0-9a-f]+/0x[0-9a-f]+(?: \[(?P<module>\w+)[^\]]*\])?"
)
# The functions between dump_stack()'s caller and the top of the trace (lib/dump_stack.c, arch/*/kernel, 6.1).
_DUMPING = re.compile(
    r"(?:__)?(?:dump_stack\w*|show_stack\w*|dump_backtrace\w*|show_trace\w*|arch_stack_walk|walk_stackframe|unwind_backtrace)$"
)
# The functions that call a function of a module by its address: one that ends in dump_stack() has no frame of its own,
# since the compiler makes a jump of the call. First those that call a probe's handler, then an initializer or an exit,
# timers, work, threads, interrupts, callbacks, notifiers, and files.
_CALLS_MODULES = re.compile(
    r"(?:aggr_pre_handler|aggr_post_handler|kprobe_ftrace_handler|opt_pre_handler|optimized_callback"
    r"|kprobe_int3_handler|kprobe_post_process|kprobe_(?:breakpoint_|trap_)?(?:ss_)?handler|post_kprobe_handler"
    r"|kprobe_single_?step_handler|kprobe_exceptions_notify"
    r"|parisc_kprobe_(?:break|ss)_handler|__?kretprobe_trampoline_handler|pre_handler_kretprobe"
    r"|rethook_trampoline_handler|arch_rethook_trampoline_callback|kretprobe_rethook_handler|__?fprobe_handler"
    r"|fprobe_\w+|arch_ftrace_ops_list_func|ftrace_ops_assist_func"
    r"|do_one_initcall|__(?:do|se|x64|arm64|riscv|ia32)_sys_delete_module|sys_delete_module"
    r"|call_timer_fn|expire_timers|__hrtimer_run_queues|process_one_work|kthread|kthread_worker_fn|smpboot_thread_fn"
    r"|__handle_irq_event_percpu|irq_thread_fn|irq_work_single|tasklet_action_common"
    r"|__flush_smp_call_function_queue|rcu_do_batch|rcu_core|async_run_entry_fn|notifier_call_chain|task_work_run"
    r"|(?:param|module|kobj|dev|drv|class|bus)_attr_(?:show|store)|proc_reg_\w+|full_proxy_\w+|seq_read(?:_iter)?"
    r"|vfs_(?:read|write|ioctl|open)|do_dentry_open|chrdev_open|__fput|__(?:se|x64|arm64|riscv|ia32)_sys_ioctl)"
    r"(?:\.(?:isra|constprop|part|cold)\.?\d*)*$"
)
# What a module imports that prints a backtrace. Without one of these no backtrace is of its making.
_PRINTS = re.compile(r"(?:dump_stack(?:_lvl)?|show_stack|show_regs|dump_backtrace|show_trace\w*|stack_trace_print)$")


def module_can_print_backtraces(module: Elf) -> bool:
    """Return True if the file of a module refers to a function of the kernel that prints a backtrace."""
    return any(not symbol.section and _PRINTS.match(symbol.name) for symbol in module.symbols)


def complaint_is_intended_backtraces(complaint: Complaint, modules: Collection[str]) -> bool:
    """Return True if the complaint is only backtraces that these modules print on purpose, with no other cause.

    `modules` are those of which `module_can_print_backtraces` is true.
    """
    return complaint.kind is ComplaintKind.TRACE and traces_are_intended(complaint, modules)


def traces_are_intended(complaint: Complaint, modules: Collection[str]) -> bool:
    """Return True if the complaint has backtraces, and each is one that these modules print on purpose."""
    traces = _traces(complaint)
    if len(complaint.lines) >= MOST_LINES:
        # The last trace was cut.
        traces = traces[:-1]
    return bool(traces) and all(_caller_is_of(trace, modules) for trace in traces)


def _traces(complaint: Complaint) -> list[list[re.Match[str]]]:
    """Return the frames of each backtrace, without doubtful ones."""
    traces: list[list[re.Match[str]]] = []
    for line in complaint.lines:
        if _HEAD.match(line):
            traces.append([])
        frame = _FRAME.search(line)
        if frame and traces and not frame["doubtful"] and not line.startswith("RIP:"):
            traces[-1].append(frame)
    return traces


def _caller_is_of(trace: list[re.Match[str]], modules: Collection[str]) -> bool:
    """Return True if the frame below the dumping functions is of one of the modules or calls functions of modules."""
    dumping = 0
    for frame in trace:
        if _DUMPING.match(frame["function"]) and not frame["module"]:
            dumping += 1
            continue
        called = bool(_CALLS_MODULES.match(frame["function"])) and not frame["module"]
        return bool(modules) and dumping > 0 and (frame["module"] in modules or called)
    return False
