"""Child processes: each has a deadline and dies with this process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness.core import paths
from harness.core.child_privilege_drop import Rights
from harness.core.deadline import Deadline
from harness.core.errors import HostDeadlineExceeded, HostError

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

# prctl(2): the kernel sends the parent-death signal when the *thread* that forked ends, not the process. Therefore one
# thread, which lives as long as the interpreter, forks every child.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")
_live: weakref.WeakSet[subprocess.Popen[bytes]] = weakref.WeakSet()
_closing = threading.Event()
_POLL_SECONDS = 0.01
# How long an ended child's output may be silent before it counts as complete.
_IDLE_SECONDS = 1.0
_CHUNK = 1 << 16
# A longer line is passed on in pieces, so that a child cannot use up the memory.
_LONGEST_LINE = 1 << 20
# No build prints as much. Without a limit a foreign Makefile could fill the disk with a log that root writes.
_MOST_OUTPUT = 256 << 20
# The rights of the children of run() in this thread. A parameter of the build steps would change their code, whose hash
# is in the keys of kernels.
_given = threading.local()
_MEND_RIGHTS = f"run {paths.PROGRAM} doctor"
_LONGEST_WAIT = 10 * 365 * 86400.0


@dataclass(frozen=True)
class FinishedProcess:
    """A child that ended by itself; `output` is stdout and stderr together, empty if it was written to a log."""

    argv: tuple[str, ...]
    rc: int
    output: str
    seconds: float


def spawn(
    argv: Sequence[str | Path],
    *,
    death_signal: signal.Signals = signal.SIGKILL,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
    nice: int = 0,
    rights: Rights | None = None,
) -> subprocess.Popen[bytes]:
    """Start a child in its own session; it gets `death_signal` when this process ends for any reason.

    `env` is added to this process's environment, or to that of `rights`, which the child has instead of this process's.
    `nice` also counts against other children of this run, see _yield().
    Raises HostError when the program is not installed.
    """
    words = [str(word) for word in argv]
    parent = os.getpid()

    def before_exec() -> None:
        if nice:
            _yield(nice)
        if rights:
            rights.apply_in_child(cwd)
        # After the change of user, which clears it (commit_creds(), kernel/cred.c, 6.1).
        _libc.prctl(_PR_SET_PDEATHSIG, int(death_signal))
        if os.getppid() != parent:
            os._exit(127)

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            words,
            cwd=cwd,
            env=rights.environment(env or {}) if rights else {**os.environ, **(env or {})},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            start_new_session=True,
            preexec_fn=before_exec,
        )

    if is_stopping():
        raise HostError("the run is being stopped")
    try:
        child = _spawner.submit(start).result()
    except FileNotFoundError as error:
        missing = error.filename or words[0]
        raise HostError(
            f"{missing} is not installed", mend=f"run {paths.PROGRAM} doctor to see which package has it"
        ) from None
    except subprocess.SubprocessError:
        raise HostError(f"{words[0]} could not be started with fewer rights", mend=_MEND_RIGHTS) from None
    _live.add(child)
    return child


def _yield(nice: int) -> None:
    """Set the nice value of this process and of its session.

    With the autogroup feature the kernel first divides the processors among sessions, and a nice value counts only
    inside its session. Each child has its own session (sched(7)).
    """
    os.nice(nice)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(nice))


def run_foreground(argv: Sequence[str], rights: Rights | None = None) -> int:
    """Run a program that owns the terminal and return its exit status; it dies with this process.

    Meanwhile only the program gets Ctrl-C. Raises HostError when the program is not installed.
    """

    def before_exec() -> None:
        if rights:
            rights.apply_in_child()
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    ours = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return subprocess.call(argv, preexec_fn=before_exec, env=rights.environment({}) if rights else None)
    except FileNotFoundError:
        raise HostError(f"{argv[0]} is not installed", mend=f"run {paths.PROGRAM} doctor") from None
    except subprocess.SubprocessError:
        raise HostError(f"{argv[0]} could not be started with fewer rights", mend=_MEND_RIGHTS) from None
    finally:
        signal.signal(signal.SIGINT, ours)


def stop_all() -> None:
    """End every child and let no new one start, because this run is interrupted."""
    _closing.set()
    for child in list(_live):
        if child.poll() is None:
            stop(child)


def is_stopping() -> bool:
    """Return True once `stop_all` was called: no wait should go on."""
    return _closing.is_set()


def stop(child: subprocess.Popen[bytes], grace: float = 5.0) -> None:
    """End the child and its process group: SIGTERM, then SIGKILL when the child has ended or after `grace` seconds.

    A child that was already reaped gets no signal, nor does its group: another process may have its number by now.
    """
    if not _signal_group(child, signal.SIGTERM):
        return
    _await_exit(child.pid, Deadline.after(grace))
    _signal_group(child, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(grace)


def _signal_group(child: subprocess.Popen[bytes], sign: signal.Signals) -> bool:
    """Signal the process group that a child leads; return False if the child was already reaped.

    Popen reaps a child only under this lock, and until then the kernel does not reuse its number.
    """
    with child._waitpid_lock:  # type: ignore[attr-defined]
        if child.returncode is not None:
            return False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, sign)
        return True


def _await_exit(pid: int, deadline: Deadline) -> None:
    """Wait until a child has ended, but do not reap it, so that its number is not reused."""
    with contextlib.suppress(ChildProcessError):
        while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) and not deadline.expired:
            time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def run_children_with_rights(rights: Rights | None) -> Iterator[None]:
    """Start the children of `run` in this thread with these rights; None keeps this process's."""
    _given.rights = rights
    try:
        yield
    finally:
        _given.rights = None


def run(
    argv: Sequence[str | Path],
    *,
    deadline: Deadline,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    log: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    nice: int = 0,
) -> FinishedProcess:
    """Run a program to its end and return its exit status and output; the caller must check the status.

    Output (stdout and stderr together) is appended to `log` if it is set, else returned. `on_line` is called with each
    line. The child gets SIGTERM if this process dies: make passes SIGTERM on to its own children, whereas SIGKILL would
    orphan them. Raises HostDeadlineExceeded after the child was ended, and HostError when the program is not installed
    or prints without end.
    """
    began = time.monotonic()
    child = spawn(
        argv,
        death_signal=signal.SIGTERM,
        cwd=cwd,
        env=env,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        nice=nice,
        rights=getattr(_given, "rights", None),
    )
    expired = threading.Event()

    def end_late_child() -> None:
        expired.set()
        stop(child)

    watchdog = threading.Timer(deadline.remaining(), end_late_child)
    watchdog.start()
    try:
        output = _drain(child, log, on_line, expired)
        # With a timeout: wait() without one holds Popen's lock, so that the watchdog could not end the child.
        rc = child.wait(_LONGEST_WAIT)
    except BaseException:
        stop(child)
        raise
    finally:
        watchdog.cancel()
        if child.stdout:
            child.stdout.close()
    words = tuple(str(word) for word in argv)
    if expired.is_set():
        raise HostDeadlineExceeded(f"{words[0]} did not end in time", where=str(log) if log else "")
    return FinishedProcess(words, rc, output, time.monotonic() - began)


def _drain(
    child: subprocess.Popen[bytes],
    log: Path | None,
    on_line: Callable[[str], None] | None,
    expired: threading.Event,
) -> str:
    """Read the child's output line by line until it is closed, or until the child has ended and nothing more comes.

    A process that the child left behind can keep the output open for as long as it likes.
    """
    assert child.stdout is not None
    kept: list[str] = []
    left = _MOST_OUTPUT
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(log.open("ab")) if log else None
        for raw in _lines(child, expired):
            left -= len(raw)
            if left < 0:
                raise HostError(f"a program printed more than {_MOST_OUTPUT >> 20} MiB", where=str(log) if log else "")
            line = raw.decode(errors="replace")
            if sink:
                sink.write(raw)
                sink.flush()
            else:
                kept.append(line)
            if on_line:
                on_line(line.rstrip("\n"))
    return "".join(kept)


def _lines(child: subprocess.Popen[bytes], expired: threading.Event) -> Iterator[bytes]:
    assert child.stdout is not None
    descriptor = child.stdout.fileno()
    readable = select.poll()
    readable.register(descriptor, select.POLLIN)
    rest = b""
    while True:
        # Before the poll: whatever a child that has ended by now has written is there to be read.
        runs = _runs(child)
        ready = bool(readable.poll(_IDLE_SECONDS * 1000))
        if expired.is_set() or not (ready or runs):
            break
        if ready:
            content = os.read(descriptor, _CHUNK)
            if not content:
                break
            *lines, rest = (rest + content).split(b"\n")
            yield from (line + b"\n" for line in lines)
            if len(rest) > _LONGEST_LINE:
                yield rest
                rest = b""
    if rest:
        yield rest


def _runs(child: subprocess.Popen[bytes]) -> bool:
    """Return True while a child has not ended; it is not reaped."""
    try:
        return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False
