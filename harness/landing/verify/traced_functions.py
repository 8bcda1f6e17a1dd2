"""The functions that something traces through ftrace: fentry and fprobe probes, kprobe.multi, kprobes on its sites."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from harness.guest.result import parsing_guest_text

# The guest's init mounts tracefs there. The other path, /sys/kernel/debug/tracing, must not even be looked up: debugfs
# mounts tracefs a second time for a process that does (trace_automount(), kernel/trace/trace.c, 6.1).
FILE = "/sys/kernel/tracing/enabled_functions"
# t_show(), kernel/trace/ftrace.c, 6.1: `name [module] (count) R I D  tramp: address (function) ->function`, then
# perhaps a line `direct-->function+0x0/0x0`. Later kernels add flags, and `ops: ... ->` instead of `tramp:`.
_LINE = re.compile(r"(?P<name>[^\s(]+)(?: \[(?P<module>[^\]]+)\])? \((?P<count>\d+)\)(?P<flags>(?: [A-Z ])*)")
_TRAMPOLINE = re.compile(
    r"tramp: (?:0x)?(?P<address>[0-9a-f]{8,16}|\S+) \((?P<function>[^)\s]+)(?: \[(?P<module>\w+)[^\]]*\])?"
)
_CALLED = re.compile(r"->(?P<function>[A-Za-z_][\w.$]*)(?:\+\S+ \[(?P<module>\w+)[^\]]*\])?")
# What is listed here alone: a kprobe on an ftrace site is in the list of kprobes, too.
TRACED_KINDS = frozenset({"fentry", "fprobe", "ftrace"})
# They call several tracers, none of which the list names then.
_CALLS_SEVERAL = frozenset({"arch_ftrace_ops_list_func", "ftrace_ops_list_func"})
# The graph tracer calls fprobes with an exit handler, since 6.14.
_MAY_HIDE_FPROBES = _CALLS_SEVERAL | {"ftrace_graph_func"}
_DIRECT = re.compile(r"direct(?:\(jmp\))?-->(?P<function>\S+)")


@dataclass(frozen=True)
class TracedFunction:
    """One function of `enabled_functions`.

    `trampolines` are the addresses that its site may call, as far as the list shows them; `callbacks` are the names of
    the functions that are called in the end, and `callback_modules` the modules that those are in; `direct_trampoline`
    is the trampoline of a BPF fentry probe, by its symbol.
    """

    name: str
    module: str
    tracer_count: int
    flags: str
    trampolines: tuple[int, ...] = ()
    callbacks: tuple[str, ...] = ()
    direct_trampoline: str = ""
    callback_modules: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """What traces it, in the words of the tools."""
        if self.direct_trampoline or "D" in self.flags:
            return "fentry"
        if any(each.startswith(("fprobe_", "fgraph_", "multi_")) for each in self.callbacks):
            return "fprobe"
        return "kprobe" if any(each.startswith("kprobe_ftrace_") for each in self.callbacks) else "ftrace"

    @property
    def named_tracer(self) -> str:
        """The BPF trampoline, the module or the function that the list names as its tracer; empty if it names none."""
        callbacks = (each for each in self.callbacks if each not in _CALLS_SEVERAL)
        return self.direct_trampoline or next(iter((*self.callback_modules, *callbacks)), "")

    @property
    def can_be_fprobe(self) -> bool:
        """Is it an fprobe, or does the list show what fprobes may be behind: several tracers, or the graph tracer?"""
        behind = not self.callback_modules and bool(_MAY_HIDE_FPROBES.intersection(self.callbacks))
        return self.kind == "fprobe" or (self.kind == "ftrace" and behind)

    @property
    def only_tracer_is_unnamed(self) -> bool:
        """Is it traced once, and does its line not name what traces it?"""
        return self.tracer_count == 1 and not self.callbacks and not self.direct_trampoline

    def __str__(self) -> str:
        return f"{self.name} [{self.module}]" if self.module else self.name


@parsing_guest_text("the list of traced functions")
def parse_enabled_functions(text: str) -> tuple[TracedFunction, ...]:
    """Read `enabled_functions`; lines of a form that is not known are passed over."""
    found: list[TracedFunction] = []
    for line in text.splitlines():
        direct = _DIRECT.search(line)
        match = _LINE.match(line)
        if match:
            found.append(_traced(match, line))
        if direct and found:
            last = found.pop()
            found.append(replace(last, direct_trampoline=direct["function"].partition("+")[0]))
    return tuple(found)


def _traced(match: re.Match[str], line: str) -> TracedFunction:
    ways, called = list(_TRAMPOLINE.finditer(line)), list(_CALLED.finditer(line))
    addresses = (_address(way["address"]) for way in ways)
    names = [each["function"].partition("+")[0] for each in (*ways, *called)]
    modules = [each["module"] for each in (*ways, *called) if each["module"]]
    return TracedFunction(
        name=match["name"],
        module=match["module"] or "",
        tracer_count=int(match["count"]),
        flags="".join(match["flags"].split()),
        trampolines=tuple(address for address in addresses if address),
        callbacks=tuple(dict.fromkeys(names)),
        callback_modules=tuple(dict.fromkeys(modules)),
    )


def _address(word: str) -> int:
    try:
        return int(word, 16)
    except ValueError:
        return 0
