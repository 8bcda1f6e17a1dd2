"""Backtraces that a module prints on purpose: dump_stack() in its own code is no complaint of the kernel."""

from __future__ import annotations

import re
from collections.abc import Collection

from harness.verdict.complaint_kinds import ComplaintKind
from harness.verdict.complaints import MOST_LINES, Complaint

_HEAD = re.compile(r"\s*(?:Call Trace:|Call trace:|Backtrace:|Stack trace:)")
# `function+0x1/0x20 [module]`; `? ` marks a value that only looks like a return address.
_FRAME = re.compile(
    r"(?P<doubtful>\? )?(?P<function>[A-Za-z_][\w.$]*)\+0x[0-9a-f]+/0x[0-9a-f]+(?: \[(?P<module>\w+)[^\]]*\])?"
)
# The functions between dump_stack()'s caller and the top of the trace (lib/dump_stack.c, arch/*/kernel, 6.1).
_DUMPING = re.compile(
    r"(?:__)?(?:dump_stack\w*|show_stack\w*|dump_backtrace\w*|show_trace\w*|arch_stack_walk|walk_stackframe)$"
)
# The functions that call a probe's handler: a handler that ends in dump_stack() has no frame of its own.
_CALLS_HANDLERS = re.compile(
    r"(?:aggr_pre_handler|kprobe_ftrace_handler|opt_pre_handler|optimized_callback|kprobe_int3_handler"
    r"|kprobe_(?:breakpoint_)?handler|parisc_kprobe_break_handler|__?kretprobe_trampoline_handler|pre_handler_kretprobe"
    r"|rethook_trampoline_handler|arch_rethook_trampoline_callback|kretprobe_rethook_handler)$"
)


def has_only_intended_backtraces(complaint: Complaint, modules: Collection[str]) -> bool:
    """Return True if the complaint is only backtraces that these modules print on purpose, with no other cause."""
    if complaint.kind is not ComplaintKind.TRACE:
        return False
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
    """Return True if the frame below the dumping functions is of one of the modules or calls a probe's handler."""
    dumping = 0
    for frame in trace:
        if _DUMPING.match(frame["function"]) and not frame["module"]:
            dumping += 1
            continue
        called = bool(_CALLS_HANDLERS.match(frame["function"])) and not frame["module"]
        return dumping > 0 and (frame["module"] in modules or called)
    return False
