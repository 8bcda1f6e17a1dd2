"""Signals a loader while its probe's initializer runs, and counts the loader's open files until it returns."""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.errors import DeadlineExceeded
from harness.guest.guest import Guest
from harness.guest.result import parsing_guest_text
from harness.landing.landing_judgment import Missed
from harness.landing.target import Target
from harness.pinning.loader import PROBE, Loader, LoaderExitStatus, LoaderOrder, LoaderResult
from harness.pinning.loader_fixture import Loaders

# How an initializer can wait (probes/pinned/gates.c), and whether a signal ends the wait.
WAITS = {"busy": False, "interruptible": True, "uninterruptible": False}
# The signals, and whether the loader dies of them when its system call returns.
SIGNALS = {"KILL": True, "TERM": True, "INT": True, "STOP": False}
_GATE = "entered"
_AT = f"{PROBE}: at {_GATE}"
_BEFORE = rf"{PROBE}: before {_GATE} files=\d+\s"
_AFTER = rf"{PROBE}: after {_GATE} files=\d+ signal=\d error=-?\d+\s"
_SECONDS = 60.0
# The time between two looks whether a loader that was continued has ended.
_LOOK_SECONDS = 2.0
# include/linux/errno.h: the same number on every architecture. The kernel repeats the call if no signal was fatal.
_ERESTARTSYS = 512


@dataclass(frozen=True)
class SignalledLoaderResult:
    """What happened to a loader that was signalled while its probe's initializer waited.

    `files_before` and `files_after` are the numbers of its open files as the initializer counted them when it began to
    wait and when it went on. `open_section_files` is the number of its open section files in /proc, after the signal if
    the wait continued. `saw_signal` is true if the initializer saw the signal. `wait_error` is what ended its wait,
    negative; 0 if the gate was opened. `probe_loaded` is true if the probe was loaded when the loader had ended.
    """

    wait_kind: str
    signal: str
    files_before: int
    files_after: int
    open_section_files: int
    saw_signal: bool
    wait_error: int
    loader_result: LoaderResult
    probe_loaded: bool

    def prove(self, *, call_not_repeated: bool = False) -> None:
        """Check that no file was closed before the initializer returned, and that the loader ended as expected.

        With `call_not_repeated` the kernel has the documented defect: a load that STOP has interrupted must end with
        EINTR and leave no probe. Raises Missed.
        """
        ends, fatal = WAITS[self.wait_kind], SIGNALS[self.signal]
        wanted = {
            "files": self.files_before,
            "tokens": 1,
            "signal": True,
            "error": -_ERESTARTSYS if ends else 0,
            "status": LoaderExitStatus.KILLED if fatal else LoaderExitStatus.DONE,
            "errno": "none",
            "loaded": not (ends and fatal),
        }
        if call_not_repeated and ends and not fatal:
            wanted |= {"status": LoaderExitStatus.LOAD, "errno": "EINTR", "loaded": False}
        seen = {
            "files": self.files_after,
            "tokens": self.open_section_files,
            "signal": self.saw_signal,
            "error": self.wait_error,
            "status": self.loader_result.status,
            "errno": self.loader_result.errno_name or "none",
            "loaded": self.probe_loaded,
        }
        wrong = [f"{name} {seen[name]}, not {value}" for name, value in wanted.items() if seen[name] != value]
        if wrong:
            raise Missed(f"SIG{self.signal} to a loader whose initializer is {self.wait_kind}: {'; '.join(wrong)}")


def signal_during_initializer(loading: Loaders, target: Target, waits: str, signal: str) -> SignalledLoaderResult:
    """Load a probe, signal its loader while the initializer waits, and let both end; unloads the probe."""
    guest = loading.guest
    order = LoaderOrder(targets=[target.module], parameters=[f"waits={waits}", f"gates={_GATE}"])
    with loading(order) as loader:
        before = _last_number(_await_log_line(guest, _BEFORE, loader.began)[0])
        _, at = _await_log_line(guest, _AT, loader.began)
        if loading.mutant.loader_defect == "betrayed":
            _betray(loader)
        tokens = _tokens(guest, loader)
        guest.run("kill", f"-{signal}", str(loader.pid)).check()
        if not WAITS[waits]:
            tokens = _tokens(guest, loader)
            _open_gate(guest)
        line, at = _await_log_line(guest, _AFTER, at)
        if not SIGNALS[signal]:
            guest.run("kill", "-CONT", str(loader.pid)).check()
            if WAITS[waits] and _is_call_repeated(guest, loader, at):
                _open_gate(guest)
        outcome = loader.continue_to_end()
    loaded = guest.run("rmmod", PROBE).ok
    with parsing_guest_text("the probe's line in the kernel's log"):
        files, pending, error = (int(word.partition("=")[2]) for word in line.split()[-3:])
    return SignalledLoaderResult(waits, signal, before, files, tokens, bool(pending), error, outcome, loaded)


def _await_log_line(guest: Guest, pattern: str, since: int) -> tuple[str, int]:
    """Wait for a line of the kernel's log at or after a position; returns the line and the position after it."""
    found = guest.console.await_line([pattern], guest.scaled_deadline(_SECONDS), since=since)
    return found.text, found.end


def _is_call_repeated(guest: Guest, loader: Loader, since: int) -> bool:
    """Wait until the initializer runs again or the loader has ended; returns whether the initializer runs.

    Raises DeadlineExceeded.
    """
    deadline = guest.scaled_deadline(_SECONDS)
    while True:
        try:
            guest.console.await_line([_AT], guest.scaled_deadline(_LOOK_SECONDS), since=since)
        except DeadlineExceeded:
            # A process that has ended, and that nobody has waited for, has no `exe` (proc_exe_link(), fs/proc/base.c).
            if not guest.run("test", "-e", f"/proc/{loader.pid}/exe").ok:
                return False
            deadline.require_time_left("the second run of the initializer, or the end of the loader,")
        else:
            return True


def _last_number(line: str) -> int:
    with parsing_guest_text("the probe's line in the kernel's log"):
        return int(line.rpartition("=")[2])


def _tokens(guest: Guest, loader: Loader) -> int:
    """The number of section files that the loader has open."""
    listing = guest.run("ls", "-l", f"/proc/{loader.pid}/fd").check().stdout
    return sum("/sections/" in line for line in listing.splitlines())


def _open_gate(guest: Guest) -> None:
    guest.run_script(f"echo go >/sys/module/{PROBE}/parameters/open_gate").check()


def _betray(loader: Loader) -> None:
    """Let the loader's second task close the tokens, and wait until it has."""
    loader.await_gate("betray")
    loader.continue_from_gate()
    while line := loader.next_line_or_none():
        if line.step == "betray":
            return
