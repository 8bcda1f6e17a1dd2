"""The root of a chroot in a guest: packages with all that they need, and the guest's own busybox for the rest."""

from __future__ import annotations

import shlex

from harness.guest.guest import Guest
from harness.images.guest_packages_as_archive_or_disk import DRIVER_PREFIX, ROOT, PackedTools

# The last directory of PATH: a package's own programs take precedence over busybox's.
APPLETS = "/applets"
_ARCHIVE = "/run/pinpoint-tools.tar.gz"
_LOWER, _UPPER, _WORK = "/run/tools-lower", "/run/tools-upper/root", "/run/tools-upper/work"
_DEVICE = "/dev/vda"
# An idle host ships and unpacks 14 MB in 3 s; one on which 14 processes compete for 2 cores needed more than a minute.
_SHIPPING = 300.0
_SECONDS, _READING = 60.0, 180.0
# debugfs and tracefs are mounted below /sys, where a mount with `rbind` should bring them along: busybox's does not.
_INNER = ("kernel/debug", "kernel/tracing")


def mount_tools_disk_in_guest(guest: Guest) -> None:
    """Mount the disk of tools below an overlay, so that tools may write. Raises GuestError."""
    for name in guest.image.modules:
        if name.startswith(DRIVER_PREFIX):
            guest.run("insmod", guest.copy_module(name)).check()
    steps = (
        "set -e",
        f"mkdir -p {_LOWER} {_UPPER} {_WORK} {ROOT}",
        f"mount -t squashfs -o ro {_DEVICE} {_LOWER}",
        f"mount -t overlay -o lowerdir={_LOWER},upperdir={_UPPER},workdir={_WORK} overlay {ROOT}",
    )
    guest.run_script("\n".join(steps), guest.scaled_deadline(_SECONDS)).check()
    _complete(guest)
    # The guest is frozen with what is read here in its page cache: LLVM alone is 110 MB to read and to unpack.
    reading = f"cd {_LOWER}/usr && cat bin/* sbin/* lib/*.so* lib/*/*.so* >/dev/null 2>&1; true"
    guest.run_script(reading, guest.scaled_deadline(_READING)).check()


def unpack_tools_in_guest(guest: Guest, tools: PackedTools) -> None:
    """Unpack the archive of tools. Raises GuestError."""
    assert tools.archive is not None
    guest.put(tools.archive, _ARCHIVE, deadline=guest.scaled_deadline(_SHIPPING))
    unpacking = f"mkdir -p {ROOT} && tar -xzf {_ARCHIVE} -C {ROOT} && rm {_ARCHIVE}"
    guest.run_script(unpacking, guest.scaled_deadline(_SHIPPING)).check()
    _complete(guest)


def _complete(guest: Guest) -> None:
    """Add what packages take for granted: a shell, and the programs that scripts use."""
    shared = f"{ROOT}{APPLETS}"
    steps = (
        "set -e",
        f"mkdir -p {shared}",
        f"cp /bin/busybox {shared}/busybox",
        f"chroot {ROOT} {APPLETS}/busybox --install -s {APPLETS}",
        f"[ -e {ROOT}/bin/sh ] || ln -s {APPLETS}/busybox {ROOT}/bin/sh",
        f"[ -e {ROOT}/etc/passwd ] || cp /etc/passwd {ROOT}/etc/passwd",
    )
    guest.run_script("\n".join(steps), guest.scaled_deadline(_SECONDS)).check()


def mount_kernel_filesystems(guest: Guest) -> None:
    """Show the guest's /proc, /sys and /dev in the chroot. Raises GuestError."""
    steps = ["set -e", *(f"mount -o rbind /{name} {ROOT}/{name}" for name in ("proc", "sys", "dev"))]
    steps += [f"[ ! -d /sys/{name} ] || mount -o bind /sys/{name} {ROOT}/sys/{name}" for name in _INNER]
    guest.run_script("\n".join(steps)).check()


def unmount_kernel_filesystems(guest: Guest) -> None:
    """Undo `mount_kernel_filesystems`; what is not mounted is passed over."""
    places = (*(f"sys/{name}" for name in reversed(_INNER)), "dev", "sys", "proc")
    guest.run_script("\n".join([*(f"umount -l {ROOT}/{name}" for name in places), "true"]))


def chroot_command(command: str, path: str) -> str:
    """Return the shell command that runs a command in the chroot."""
    words = ("chroot", ROOT, f"{APPLETS}/env", f"{path}:{APPLETS}", "HOME=/root", "LC_ALL=C", "/bin/sh", "-c", command)
    return f"exec {shlex.join(words)}"
