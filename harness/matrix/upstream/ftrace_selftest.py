"""The kernel's ftrace selftests (tools/testing/selftests/ftrace), one in a guest, with the kernel's own runner."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.matrix.upstream.outcome import End, Outcome

DIRECTORY = "tools/testing/selftests/ftrace"
TESTS = "test.d"
# Modules that a test loads with modprobe: the samples' directory and the modules' names.
MODULES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "kprobe/kprobe_module.tc": ("samples/trace_printk", ("trace-printk",)),
    "direct/kprobe-direct.tc": ("samples/ftrace", ("ftrace-direct", "ftrace-direct-too")),
}
# $arg2 of a probe on a function needs this option (parse_probe_vars(), kernel/trace/trace_probe.c, 6.1); 32-bit ARM and
# parisc do not have it. On 6.12 and later, the text that two of the tests look for is in every kernel's README.
_ARGUMENTS = "CONFIG_HAVE_FUNCTION_ARG_ACCESS_API"
# A test that probes the instructions of a function that the shell's next command runs: the function, and how many bytes
# of it.
PROBED_INSTRUCTIONS = {"kprobe/kprobe_insn_boundary.tc": ("kernel_clone", 256)}
# Kernel options without which a test fails although it does not check for them. The modules of kprobe-direct.tc depend
# on theirs (samples/Kconfig), and do not compile without it on newer kernels.
NEEDED_OPTIONS = {
    "dynevent/test_duplicates.tc": _ARGUMENTS,
    "kprobe/kprobe_args_user.tc": _ARGUMENTS,
    "kprobe/kprobe_args_vfs.tc": _ARGUMENTS,
    "kprobe/kretprobe_entry_arg.tc": _ARGUMENTS,
    "direct/kprobe-direct.tc": "CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS",
}
# How long a test may take, in seconds of a usual guest. This one tries each function of a kernel that refuses most.
_SECONDS, _SECONDS_OF = 240.0, {"kprobe/multiple_kprobes.tc": 900.0}
_PLACE, _LOGS = "/tmp/pinpoint-ftracetest", "/tmp/pinpoint-ftracetest-logs"
# The words of the summary that ftracetest prints, from the worst.
_ENDS = {
    "failed": End.FAIL,
    "undefined(test bug)": End.FAIL,
    "unresolved": End.NOT_DECIDED,
    "untested": End.NOT_DECIDED,
    "unsupported": End.NOT_DECIDED,
    "xfailed": End.EXPECTED_FAIL,
    "passed": End.PASS,
}
_COUNT = re.compile(r"^# of ([a-z]+(?:\(test bug\))?): +(\d+)$", re.M)
# A test's log has each command that the shell runs, because ftracetest runs it with `set -x`.
_TRACED = re.compile(r"^\++ ")
_ABOUT = re.compile(r"\bkprobe|\buprobe|kprobe_events|uprobe_events")


def tests_in(files: Path) -> list[str]:
    """Return the tests of kprobes and uprobes in a kernel's files, by their path below test.d."""
    root = files / DIRECTORY / TESTS
    found = [path for path in root.rglob("*.tc") if path.parent.name == "kprobe" or _ABOUT.search(path.read_text())]
    return sorted(str(path.relative_to(root)) for path in found)


def install(guest: Guest, files: Path, modules: Sequence[Path]) -> None:
    """Copy the tests to a guest, and the modules that a test loads. Raises GuestError."""
    guest.put(_archive(files / DIRECTORY), f"{_PLACE}.tar")
    guest.run_script(f"mkdir -p {_PLACE} && tar -xf {_PLACE}.tar -C {_PLACE}").check()
    # A test looks for the shell's file by a name that ends in `sh`; through a symbolic link it is busybox.
    guest.run("ln", "-f", "/bin/busybox", "/bin/sh").check()
    _install(guest, modules)


def place_in_guest(test: str) -> str:
    """Return the path in the guest of a test that was installed, given its path below test.d."""
    return f"{_PLACE}/{TESTS}/{test}"


def run_test(guest: Guest, test: str) -> Outcome:
    """Run one test that was installed, by its path below test.d. Raises GuestError."""
    # The runner's own process group gets signals of tests, so it must not be the resident shell's.
    script = f"cd {_PLACE} && setsid sh ./ftracetest -k -l {_LOGS} {TESTS}/{test} </dev/null 2>&1"
    done = guest.run_script(script, guest.scaled_deadline(_SECONDS_OF.get(test, _SECONDS)))
    logs = guest.run_script(f"cat {_LOGS}/*.tc-log.* 2>/dev/null; true").stdout
    return read_end(test, done.rc, done.stdout, logs.splitlines())


def read_end(test: str, status: int, printed: str, log: Sequence[str]) -> Outcome:
    """Read what ftracetest printed. Raises GuestError for an output that has no end, or another than its status."""
    counts = {name: int(count) for name, count in _COUNT.findall(printed)}
    ran = [name for name in _ENDS if counts.get(name)]
    if set(counts) != set(_ENDS) or not ran:
        shown = " ".join(printed.split())[-300:]
        raise GuestError(f"{test}: ftracetest ended with status {status} and without a summary: {shown}")
    end = _ENDS[ran[0]]
    if (status != 0) != (end is End.FAIL):
        raise GuestError(f"{test}: ftracetest ended with status {status}, and its summary is {', '.join(ran)}")
    text = [line for line in log if not _TRACED.match(line) and line.strip()]
    commands = [line.lstrip("+ ") for line in log if _TRACED.match(line)]
    if end is End.FAIL:
        why = f"its last command: {commands[-1]}" if commands else ""
    else:
        why = text[-1].strip() if text and end is not End.PASS else ""
    return Outcome(f"{TESTS}/{test}", end, ran[0].upper(), why, tuple(log))


def _install(guest: Guest, modules: Sequence[Path]) -> None:
    """Put modules where modprobe finds them."""
    place = f"/lib/modules/{guest.image.release}"
    for file in modules:
        guest.run("mkdir", "-p", place).check()
        guest.put(file, f"{place}/{file.name}")
    if modules:
        lines = "".join(f"{file.name}:\n" for file in modules)
        guest.put(lines.encode(), f"{place}/modules.dep")


def _archive(directory: Path) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name in ("ftracetest", TESTS):
            archive.add(directory / name, name)
    return written.getvalue()
