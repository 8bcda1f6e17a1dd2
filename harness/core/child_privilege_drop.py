"""Fewer rights for children of root: an unprivileged user, and a view of the host without its private directories.

QEMU and gdb process what a guest wrote, and a build of a foreign module runs its Makefile. If Pinpoint runs as root,
these children get a user of their own. A directory that this user may not enter, such as /root, is replaced by an empty
one in the child's mount namespace, with only the files in it that the child needs. Only Python's standard library is
used, because doctor imports this module before anything is installed.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import resource
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Unused numbers: Debian reserves 65000-65533 (policy, 9.2.2). Builds have another user than QEMU, so that neither can
# signal or trace the other. The group may read what both need.
QEMU_USER, BUILD_USER, GROUP = 65530, 65531, 65530
# Builds could use up the process numbers of the host, and then nothing could be started to kill them. make starts about
# five processes for each core.
_MOST_PROCESSES_OF_BUILDS, _LONGEST_FILE_OF_BUILDS = 4096, 1 << 30
_KILLING_SECONDS = 10.0
# If this variable is set, every child keeps root's rights.
KEEP_ROOT = "PINPOINT_KEEP_ROOT"
# All variables that such a child inherits; the others can hold passwords. Children are found by the directories.
_INHERITED = ("PATH", "TERM", "TZ", "LANG", "LC_ALL", "PINPOINT_CACHE", "PINPOINT_RESULTS")

# include/uapi/linux/prctl.h, sched.h and mount.h, 6.1.
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWNS = 0x20000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Rights:
    """What a child may do: its user, extra groups, private directories to hide, and the paths to show in them."""

    user: int
    groups: tuple[int, ...] = ()
    hidden_directories: tuple[Path, ...] = ()
    visible_paths: tuple[Path, ...] = ()
    writable_paths: tuple[Path, ...] = ()
    limits: tuple[tuple[int, int], ...] = ()  # of resources, by their numbers in setrlimit(2)

    def apply_in_child(self, cwd: Path | None = None) -> None:
        """Give up all other rights; runs in the child, before it executes its program. Raises OSError."""
        if self.hidden_directories:
            self._hide()
            if cwd:
                os.chdir(cwd)
        for number, most in self.limits:
            resource.setrlimit(number, (most, most))
        os.setgroups(self.groups)
        os.setresgid(GROUP, GROUP, GROUP)
        os.setresuid(self.user, self.user, self.user)
        _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")

    def environment(self, added: Mapping[str, str]) -> dict[str, str]:
        """Return the child's environment."""
        return {**{name: os.environ[name] for name in _INHERITED if name in os.environ}, "HOME": "/", **added}

    def _hide(self) -> None:
        os.umask(0o022)
        _check(_libc.unshare(_CLONE_NEWNS), "unshare")
        _mount("none", Path("/"), _MS_REC | _MS_PRIVATE)
        # Opened before the directories above them are hidden.
        found = [(path, os.open(path, os.O_PATH | os.O_CLOEXEC), path.is_dir()) for path in self.visible_paths]
        for directory in self.hidden_directories:
            _mount("tmpfs", directory, _MS_NOSUID | _MS_NODEV, kind="tmpfs", data="mode=0755,size=1m")
        for path, descriptor, is_directory in found:
            path.parent.mkdir(parents=True, exist_ok=True)
            if is_directory:
                path.mkdir(exist_ok=True)
            else:
                path.touch()
            _mount(f"/proc/self/fd/{descriptor}", path, _MS_BIND)
            if path not in self.writable_paths:
                _mount("none", path, _MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
            os.close(descriptor)


def grant_restricted_rights(
    reads: Sequence[Path],
    writes: Sequence[Path] = (),
    *,
    foreign: Sequence[Path] = (),
    user: int = QEMU_USER,
    groups: Sequence[int] = (),
) -> Rights | None:
    """Return the rights of a child that reads `reads` and writes `writes`, files or whole directories.

    These become readable, and writable, for the child's user. `foreign` is read too, but its permissions are not ours
    to change. Returns None if the child keeps this process's rights: this process is not root, or `reason_rights_kept`
    has the reason. Raises OSError when permissions cannot be changed.
    """
    if os.geteuid() or reason_rights_kept():
        return None
    for path in reads:
        _share(path.resolve())
    for path in writes:
        os.chown(path, user, GROUP)
    # A path and its target may be below different directories.
    paths = list(
        dict.fromkeys(form for path in (*reads, *foreign, *writes) for form in (path.absolute(), path.resolve()))
    )
    hidden = {path: _blocked(path) for path in paths}
    shown = tuple(path for path in _outermost(path for path in paths if hidden[path]))
    writable = tuple(form for path in writes for form in (path.absolute(), path.resolve()))
    limits = (
        ((resource.RLIMIT_NPROC, _MOST_PROCESSES_OF_BUILDS), (resource.RLIMIT_FSIZE, _LONGEST_FILE_OF_BUILDS))
        if user == BUILD_USER
        else ()
    )
    return Rights(user, tuple(groups), _outermost(filter(None, hidden.values())), shown, writable, limits)


@functools.cache
def reason_rights_kept() -> str:
    """Return why children keep root's rights on this host; empty if they do not, or if this process is not root."""
    if os.geteuid():
        return ""
    if os.environ.get(KEEP_ROOT):
        return f"{KEEP_ROOT} is set"
    with tempfile.TemporaryDirectory(prefix="pinpoint-rights-", dir=temporary_directory_qemu_may_enter()) as directory:
        private = Path(directory, "private")
        private.mkdir(0o700)
        (private / "shown").touch()
        (private / "shown").chmod(0o644)
        trial = Rights(QEMU_USER, (), (private,), (private / "shown",))
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            Path(directory).chmod(0o711)
            words = ["/bin/sh", "-c", f'test -r "$0" && test "$(id -u)" = {QEMU_USER}', str(private / "shown")]
            if not subprocess.run(
                words, preexec_fn=trial.apply_in_child, timeout=30, check=False, env={"PATH": "/usr/bin:/bin"}
            ).returncode:
                return ""
    return "this host allows root no mount namespace or no change of user; run Pinpoint as an ordinary user"


def describe_child_rights() -> str:
    """Return with which rights QEMU, gdb and builds of foreign modules run, for doctor."""
    if os.geteuid():
        return f"those of this user ({os.geteuid()}), who is not root"
    if reason := reason_rights_kept():
        return f"ROOT'S: {reason}"
    return f"users {QEMU_USER} (QEMU, gdb) and {BUILD_USER} (builds), without root's private directories"


def kill_processes_of_user(user: int) -> None:
    """Kill every process of an unprivileged user: what a build leaves behind. Only for a user of this module.

    Returns when none of them is alive, or after some seconds: a busy host takes its time to end many processes.
    """
    if os.geteuid() or user not in (QEMU_USER, BUILD_USER):
        return
    until = time.monotonic() + _KILLING_SECONDS
    # kill(2): -1 means every process that the caller may signal. The child may signal only those of its own user.
    while True:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(
                ["/bin/sh", "-c", "kill -9 -1"],
                preexec_fn=Rights(user).apply_in_child,
                timeout=30,
                check=False,
                env={"PATH": "/usr/bin:/bin"},
            )
        if not _has_live_process(user) or time.monotonic() > until:
            return
        time.sleep(0.05)


def _has_live_process(user: int) -> bool:
    """Return True if a process of a user is alive; a zombie is not."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            if path.stat().st_uid == user and (path / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                return True
    return False


def temporary_directory_qemu_may_enter() -> str:
    """Return a directory for temporary files that QEMU's user may enter."""
    chosen = tempfile.gettempdir()
    return "/tmp" if not os.geteuid() and _blocked(Path(chosen, "file")) else chosen


def give_to_qemu_user(path: Path) -> None:
    """Make QEMU's user the owner of a file or directory, if QEMU has one of its own."""
    if not os.geteuid() and not reason_rights_kept():
        os.chown(path, QEMU_USER, GROUP)


def qemu_may_open(path: Path) -> bool:
    """Return True if QEMU's user may read and write a device, with the group of `device_groups`."""
    if os.geteuid() or reason_rights_kept():
        return os.access(path, os.R_OK | os.W_OK)
    return path.stat().st_mode & 0o006 == 0o006 or bool(device_groups(path))


def device_groups(path: Path) -> tuple[int, ...]:
    """Return the group to add so that QEMU may open a device; empty if there is none. It is never root's group."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_gid,) if status.st_gid and status.st_mode & 0o060 == 0o060 else ()


def _share(path: Path) -> None:
    """Let the group read a file, or a directory with everything in it, which has the group once all of it has."""
    if path.stat().st_gid == GROUP or _everybody_reads(path):
        return
    if path.is_dir():
        for directory, names, files in os.walk(path):
            for name in (*names, *files):
                _let_read(f"{directory}/{name}")
    _let_read(path)


def _everybody_reads(path: Path) -> bool:
    """Return True for a path outside the cache and temporary directories that needs no change, such as a program."""
    status = path.stat()
    needed = 0o005 if stat.S_ISDIR(status.st_mode) else 0o004
    return status.st_mode & needed == needed and not path.is_dir()


def _let_read(path: str | Path) -> None:
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode) or status.st_uid != os.geteuid():
        return
    mode = stat.S_IMODE(status.st_mode)
    wanted = mode | 0o040 | (0o010 if mode & 0o100 else 0)
    os.chown(path, -1, GROUP)
    Path(path).chmod(wanted)


def _blocked(path: Path) -> Path | None:
    """Return the first directory above a path that the unprivileged user may not enter, or None."""
    for directory in reversed(path.parents):
        status = directory.stat()
        if not (status.st_mode & 0o001 or (status.st_gid == GROUP and status.st_mode & 0o010)):
            return directory
    return None


def _outermost(paths: Iterator[Path] | Sequence[Path]) -> tuple[Path, ...]:
    """Return the paths that are not below another of them, each once, outer ones first."""
    found: list[Path] = []
    for path in sorted(set(paths)):
        if not any(path.is_relative_to(outer) for outer in found):
            found.append(path)
    return tuple(found)


def _mount(source: str, target: Path, flags: int, kind: str = "none", data: str = "") -> None:
    words = source.encode(), os.fsencode(target), kind.encode()
    _check(_libc.mount(*words, ctypes.c_ulong(flags), data.encode()), f"mount on {target}")


def _check(result: int, what: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
