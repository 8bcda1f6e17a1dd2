"""A selftest of ftrace that fails on a kernel for a known reason, which is shown in the guest before the test runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.elf import Elf
from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.landing.code.instruction import Flow
from harness.landing.code.instructions import decode_function, first_accepted_offset
from harness.landing.code.kernel_file import kernel_file
from harness.landing.layout import Layout
from harness.landing.site import Site
from harness.matrix.guests.check_after_cell import complaints_since_check, explain_loss
from harness.matrix.upstream.ftrace_selftest import PROBED_INSTRUCTIONS, place_in_guest
from harness.matrix.upstream.many_probed_functions import PROBED_FUNCTIONS, list_probed_functions
from harness.matrix.upstream.outcome import End, Outcome
from harness.verdict.cell_verdict_enum import end_as_known_fail
from harness.verdict.complaint_kinds import ComplaintKind

_WARNING = {ComplaintKind.WARNING}


@dataclass(frozen=True)
class DocumentedFailure:
    """The command at which a test must fail, the cause, and whether the kernel must print a WARNING meanwhile."""

    command: str
    cause: str
    warns: bool = False

    def end_cell(self, guest: Guest, outcome: Outcome) -> None:
        """End the cell as known-fail. Raises Missed if the test ended in another way, KernelComplained for an oops."""
        outcome.demand_failure_at(self.command, self.cause)
        if self.warns and {each.kind for each in complaints_since_check(guest)} != _WARNING:
            raise explain_loss(guest, GuestError("the kernel printed no WARNING", where=guest.name))
        end_as_known_fail(f"{outcome.test}: {self.cause}")


def documented_failure(guest: Guest, test: str) -> DocumentedFailure | None:
    """Return how a test must fail on this kernel; None if it should pass. Raises GuestError."""
    if script := _SCRIPTS_THAT_COUNT_HITS.get(test):
        return _WITHOUT_A_HIT[test] if guest.run_script(script).check().stdout.split() == ["0"] else None
    if test in PROBED_INSTRUCTIONS:
        return _FTRACE_ENDED if _ftrace_writes_inside(guest, *PROBED_INSTRUCTIONS[test]) else None
    if test == _PROBE_POINTS:
        return _failure_at_preamble(guest)
    if test in _WITH_DOTS and guest.run("grep", "-qi", r" t \.kernel_clone$", "/proc/kallsyms").ok:
        return _WITH_DOTS[test]
    return None


# The command at which a test ends that wants more functions than it finds: the end of /proc/kallsyms.
_TOO_FEW = "read i"
# Tests that look for a function by its name alone. With function descriptors, the code of `f` has the symbol `.f`
# (ELFv1, big-endian ppc64).
_DOTTED_NAMES = "the test leaves out names with a dot, and the kernel names a function's code `.kernel_clone` (ELFv1)"
_WITH_DOTS = {
    "kprobe/kretprobe_args.tc": DocumentedFailure("grep -q '<- kernel_clone'", _DOTTED_NAMES),
    "kprobe/multiple_kprobes.tc": DocumentedFailure(_TOO_FEW, _DOTTED_NAMES),
}
# It takes the address of the first name in /proc/kallsyms that contains this one.
_PROBE_POINTS, _ITS_FUNCTION = "kprobe/probepoint.tc", "tracefs_create_dir"


def _count_hits(place: str, action: str, *, kind: str = "kprobe", before: str = "") -> str:
    """Return a script that prints the hits of a probe at a place during an action; the place is for a shell's "".

    It prints nothing where events of this kind are not supported or the kernel refuses the probe.
    """
    return f"""
cd /sys/kernel/tracing && test -f {kind}_events || exit 0
{before}
echo "p:pinpoint_hits {place}" >{kind}_events || exit 0
echo 1 >events/{kind}s/pinpoint_hits/enable && {{ {action}; }}
awk '{{ for (i = 1; i < NF; i++) if ($i == "pinpoint_hits") print $(i + 1) }}' {kind}_profile
echo 0 >events/{kind}s/pinpoint_hits/enable; echo >{kind}_events
"""


# Tests that need a hit of a place that not every kernel or shell runs: the hits there while the same is done.
_SCRIPTS_THAT_COUNT_HITS = {
    "kprobe/kprobe_args_user.tc": _count_hits("vfs_symlink", "ln -s x /tmp/pinpoint-link && rm /tmp/pinpoint-link"),
    # tracefs_create_dir() in 6.1, eventfs_create_dir() in 6.12: the test names it.
    "kprobe/kprobe_args_string.tc": _count_hits(
        "$name",
        "echo 'p:pinpoint_new kernel_clone' >>kprobe_events || exit 0",
        before=r"name=$(sed -n 's/.*p:testprobe \([a-z_]*\) .*/\1/p' "
        f"{place_in_guest('kprobe/kprobe_args_string.tc')} | head -n 1)",
    ),
    "direct/kprobe-direct.tc": _count_hits("wake_up_process", "sleep 1"),
    "dynevent/add_remove_uprobe.tc": _count_hits(
        "$place",
        "echo ls | /bin/sh >/dev/null",
        kind="uprobe",
        before="place=$(echo 'cat /proc/$$/maps' | /bin/sh | grep 'r-xp .*/bin/.*sh$' | awk '{ print $6 \":0x\" $3 }')",
    ),
}
_WITHOUT_A_HIT = {
    "kprobe/kprobe_args_user.tc": DocumentedFailure(
        "grep -q 'path=(fault) path2=(fault)'",
        "the kernel's compiler made vfs_symlink() a part of its caller, and the test needs a hit of the function",
    ),
    "kprobe/kprobe_args_string.tc": DocumentedFailure(
        """grep -qe 'testprobe.* arg1="test"' trace""",
        "the kernel's compiler made the function of the test a part of its callers, and the test needs a hit of it",
    ),
    "direct/kprobe-direct.tc": DocumentedFailure(
        "grep -q 'my_direct_func: waking up' trace",
        "the kernel's compiler made wake_up_process() a part of its callers, and the test needs a call of it",
    ),
    "dynevent/add_remove_uprobe.tc": DocumentedFailure(
        "grep -q myevent trace",
        "the test needs a hit at the start of the shell's code, which is `_init` there, and the C libraries of newer "
        "ports do not call it (ELF_INITFINI, glibc's csu/libc-start.c)",
    ),
}
_FTRACE_ENDED = DocumentedFailure(
    "echo 1",
    "the kernel accepts a probe on the second instruction of an ftrace site, which ends ftrace",
    warns=True,
)


# The instruction pointer of an oops on MIPS, in no function: `epc   : ffffffffc000000c 0xffffffffc000000c`.
_IN_A_COPY = re.compile(r"\bepc +: ([0-9a-f]+) 0x\1\s*$")
# The definition of a probe on the entry of a function, as the shell traces it: its module, or none, and the function.
_ON_ENTRY = re.compile(r"echo '?[pr](?::\S+)? (?:(\w+):)?([A-Za-z_]\w*)(?:[ ']|$)")
_WHERE_ACCEPTED = """
cd /sys/kernel/tracing && echo >kprobe_events || exit 0
echo 'p:pinpoint_entry {place}' >>kprobe_events && echo entry
echo 'p:pinpoint_next {place}+{offset}' >>kprobe_events && echo next
echo >kprobe_events
"""
# Any function that ftrace traces: the offset is the same in all of them.
_TRACED_FUNCTION = "kernel_clone"


def cause_of_refused_entry(guest: Guest, outcome: Outcome, modules: Sequence[Path] = ()) -> str:
    """Return why the kernel refused the probe at whose definition a test failed; empty if it failed elsewhere.

    The probe is on the entry of a function that ftrace traces, of the kernel or of one of the test's modules. In the
    guest that entry is refused without the test, and the next instruction is accepted. A test that looks for many
    functions finds too few, and finds enough at the next instruction.
    """
    if outcome.end is not End.FAIL or guest.traits.traced_entry_kprobes:
        return ""
    test = outcome.test.partition("/")[2]
    if test in PROBED_FUNCTIONS and outcome.why.endswith(f" {_TOO_FEW}"):
        return _cause_of_too_few(guest, test)
    found = _ON_ENTRY.search(outcome.why)
    if not found:
        return ""
    module, function = found.groups()
    file = next((file for file in modules if file.stem.replace("-", "_") == module), None)
    if module and not file:
        return ""
    offset = _first_accepted_offset(guest, function, file)
    place = f"{module}:{function}" if module else function
    script = _WHERE_ACCEPTED.format(place=place, offset=offset)
    if not offset or guest.run_script(script).check().stdout.split() != ["next"]:
        return ""
    return f"the kernel refuses a probe on the entry of {place}(), which ftrace traces, and accepts {place}+{offset}"


def cause_of_forgotten_probe(guest: Guest) -> str:
    """Return why the kernel has forgotten a probe that it stepped, if all its complaints show that; else "".

    It depends on the time at which a task is freed, so a test that hits probes may pass, fail, or lose the guest.
    """
    defect = guest.architecture.kprobe_traits.defects.get("task-freed")
    if defect is None:
        return ""
    shown = [
        defect.oops in each.headline and any(map(_IN_A_COPY.search, each.lines))
        for each in complaints_since_check(guest)
    ]
    return defect.cause if shown and all(shown) else ""


def _cause_of_too_few(guest: Guest, test: str) -> str:
    offset = _first_accepted_offset(guest, _TRACED_FUNCTION, None)
    if not offset or len(list_probed_functions(guest, test, offset)) != PROBED_FUNCTIONS[test]:
        return ""
    return f"the kernel refuses a probe on the entry of functions that ftrace traces, and accepts +{offset}"


def _first_accepted_offset(guest: Guest, function: str, module: Path | None) -> int:
    """Return the offset of the first instruction of a function that the kernel accepts, by the code alone.

    Returns 0 if the file has no such function.
    """
    elf = Elf.read(module) if module else kernel_file(guest.image)
    named = [symbol for symbol in elf.symbols_named(function) if symbol.kind == "func"]
    return first_accepted_offset(elf, named[0], guest.architecture.kprobe_traits.decoder) if named else 0


def _failure_at_preamble(guest: Guest) -> DocumentedFailure | None:
    """Return the failure of a test that takes the CFI preamble before a function for the function."""
    found = guest.run("grep", "-m1", _ITS_FUNCTION, "/proc/kallsyms")
    address, _, name = found.stdout.split()[:3] if found.ok else ("", "", "")
    if name != f"__cfi_{_ITS_FUNCTION}":
        return None
    cause = f"the test takes {name}, on which the kernel refuses a probe, for {_ITS_FUNCTION}()"
    return DocumentedFailure(f"echo 'p:testprobe 0x{address}'", cause)


def _ftrace_writes_inside(guest: Guest, function: str, size: int) -> bool:
    """Return True if ftrace writes an instruction of the function on which the kernel accepts a probe."""
    layout = Layout(guest)
    elf, symbol = layout.elf_and_symbol(Site(function))
    code = decode_function(elf, symbol, layout.decoder)
    return any(each.flow is Flow.WRITTEN_BY_FTRACE and each.offset < size for each in code)
