"""Choice of a guest's accelerator: the fastest one that runs its canary on this host."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness.core import child_privilege_drop, files, paths, process, program_versions
from harness.core.architecture import Architecture
from harness.core.deadline import Deadline
from harness.core.errors import DeadlineExceeded, HostError, UsageError
from harness.guest import qemu_rights
from harness.guest.accelerator_canary_firmware import CANARIES, GREETING, Canary

KVM, TCG = "kvm", "tcg"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# The canary takes 0.1 s under emulation, less under KVM.
_CANARY_SECONDS = 4.0
# Long enough for a canary on a host that compiles on every core.
_TCG_CANARY_SECONDS = 30.0
# Debian's package of each emulator; other distributions use similar names.
_PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-system-i386": "qemu-system-x86",
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-system-arm": "qemu-system-arm",
    "qemu-system-hppa": "qemu-system-misc",
    "qemu-system-loongarch64": "qemu-system-misc",
    "qemu-system-mips": "qemu-system-mips",
    "qemu-system-mips64el": "qemu-system-mips",
    "qemu-system-s390x": "qemu-system-misc",
    "qemu-system-riscv64": "qemu-system-misc",
    "qemu-system-ppc64": "qemu-system-ppc",
    "qemu-system-sh4": "qemu-system-misc",
    "qemu-system-sparc64": "qemu-system-sparc",
}
# Content of the cached answer of a canary that passed.
_PASSED = "sings"
# QEMU's own seccomp filter, set on every QEMU that Pinpoint starts: no child processes, no change of privileges, no
# obsolete system calls.
SANDBOX_ARGUMENTS = ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
# The version in Debian 12. Older versions lack options of our command lines, or are untested.
_OLDEST = (7, 2)
_VERSION = re.compile(r"version (\d+)\.(\d+)")


@dataclass(frozen=True)
class Accelerator:
    """`kvm` or `tcg`, and the reason of the choice; results record both."""

    name: str
    reason: str

    @property
    def emulated(self) -> bool:
        """True when QEMU translates every guest instruction, which is about ten times slower."""
        return self.name == TCG


class _CanaryFailed(Exception):
    """The canary cannot pass; the message is QEMU's reason."""


def choose(architecture: Architecture, forced: str | None = None) -> Accelerator:
    """Return the fastest accelerator that runs the architecture's canary on this host, or the forced accelerator.

    The result is cached until the host reboots or QEMU changes. Raises UsageError for an unknown accelerator,
    HostError when the forced accelerator does not run the canary or when no accelerator runs it.
    """
    if forced not in (None, KVM, TCG):
        raise UsageError(f"no accelerator named {forced!r}", mend=f"one of: {KVM}, {TCG}")
    if forced:
        complaint = _complaint(architecture, forced)
        if complaint:
            raise HostError(f"accelerator {forced} does not work: {complaint}", where=architecture.name)
        return Accelerator(forced, "forced")
    complaint = _complaint(architecture, KVM)
    if not complaint:
        return Accelerator(KVM, "runs its canary")
    broken = _complaint(architecture, TCG)
    if broken:
        raise HostError(f"no accelerator works: {KVM}: {complaint}; {TCG}: {broken}", where=architecture.name)
    return Accelerator(TCG, f"no {KVM}: {complaint}")


def frozen_guest_host_identity(accelerator: Accelerator) -> str:
    """Return the host's identity for a frozen guest.

    Under emulation a guest depends on QEMU alone (empty); under KVM also on the host's CPU and kernel (boot id).
    """
    return "" if accelerator.emulated else _BOOT_ID.read_text()


def qemu_version_line(program: str) -> str:
    """Return the first line of QEMU's version output.

    Raises HostError with the name of the Debian package when QEMU is not installed, and HostError when QEMU is older
    than the oldest tested version.
    """
    try:
        line = program_versions.first_version_line(program)
    except HostError:
        package = _PACKAGES.get(program, program)
        raise HostError(f"{program} is not installed", mend=f"install the package {package}") from None
    version = _VERSION.search(line)
    if version and (int(version[1]), int(version[2])) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise HostError(f"{program} is version {version[1]}.{version[2]}", mend=f"install {oldest} or newer")
    return line


def _complaint(architecture: Architecture, name: str) -> str:
    """Return why this accelerator is unusable; empty if it is usable."""
    if name == KVM:
        absent = _kvm_absent(architecture)
        if absent:
            return absent
    version = qemu_version_line(architecture.qemu_machine.qemu)
    canary = CANARIES.get(architecture.name)
    return _remembered(architecture, name, version) if canary else ""


def _kvm_absent(architecture: Architecture) -> str:
    """Return why KVM is unusable without running the canary; empty if the canary must run."""
    if not architecture.native:
        return f"the host is not {architecture.name}"
    device = qemu_rights.KVM_DEVICE
    if not device.exists():
        return f"no {device}"
    if not child_privilege_drop.qemu_may_open(device):
        return f"no access to {device}"
    return ""


def _remembered(architecture: Architecture, name: str, version: str) -> str:
    """Return the canary's failure, cached per host boot, QEMU version and canary; empty on success.

    A failure under emulation is not cached: no other accelerator is left, and the host's load may be the cause.
    """
    canary = CANARIES[architecture.name]
    key = files.sha256_of_strings(
        [name, version, _BOOT_ID.read_text(), architecture.qemu_machine.qemu, canary.rom.hex()]
    )
    answer = paths.cache() / "canary" / key[:20]
    if answer.exists():
        recorded = answer.read_text()
        # An empty file is no answer: a machine that lost power leaves one.
        if recorded:
            return "" if recorded == _PASSED else recorded
    complaint = _run_canary(architecture, name, canary)
    if name == KVM or not complaint:
        files.write_text(answer, complaint or _PASSED)
    return complaint


def _run_canary(architecture: Architecture, name: str, canary: Canary) -> str:
    """Run the canary and return its failure; empty if it printed its greeting and ended with the expected status."""
    with tempfile.TemporaryDirectory(prefix="pinpoint-canary-") as directory:
        rom = Path(directory, "rom")
        rom.write_bytes(canary.rom)
        seconds = _CANARY_SECONDS if name == KVM else _TCG_CANARY_SECONDS
        try:
            with process.run_children_with_rights(
                qemu_rights.qemu_process_rights(architecture.qemu_machine.qemu, name == KVM, [rom])
            ):
                ended = process.run(
                    canary_argv(architecture, name, canary, rom),
                    deadline=Deadline.after(seconds),
                    on_line=_check_line,
                )
        except (_CanaryFailed, DeadlineExceeded) as failure:
            return f"a guest of 64 KiB does not run ({failure})"
    if ended.rc == canary.rc and GREETING.decode() in ended.output:
        return ""
    printed = " ".join(ended.output.split()) or "no output"
    return f"QEMU ended with status {ended.rc}: {printed[:200]}"


def _check_line(line: str) -> None:
    """Raise _CanaryFailed on an internal error of KVM: QEMU then stops the guest and waits for a monitor command."""
    if line.startswith("KVM internal error"):
        raise _CanaryFailed(line)


def canary_argv(architecture: Architecture, name: str, canary: Canary, rom: Path) -> list[str]:
    """Return QEMU's command line for a canary: the architecture's machine with this firmware and nothing else."""
    machine = architecture.qemu_machine
    argv = [machine.qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", *SANDBOX_ARGUMENTS]
    argv += ["-machine", machine.machine, "-accel", name, "-m", str(canary.memory_mib)]
    argv += [canary.option, str(rom)]
    argv += ["-cpu", cpu_model(architecture, name)] if cpu_model(architecture, name) else []
    argv += ["-chardev", "stdio,id=line,signal=off", *machine.serial_ports("chardev:line")]
    return argv + [word for device in canary.devices for word in ("-device", device)]


def cpu_model(architecture: Architecture, name: str) -> str:
    """Return the CPU model under this accelerator; empty if the machine has only one."""
    return "host" if name == KVM else architecture.qemu_machine.cpu
