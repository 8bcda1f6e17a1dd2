"""Boots under real QEMU are judged correctly, with canaries and kernels of a few instructions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.core import paths
from harness.core.architecture_table import ARCHITECTURES
from harness.core.deadline import Deadline
from harness.core.errors import BootError, HostError, UsageError
from harness.core.events import Bus
from harness.guest import accelerator, guest_run_time_limit, monitor, start
from harness.guest.accelerator import KVM, TCG, Accelerator, choose
from harness.guest.accelerator_canary_firmware import (
    CANARIES,
    PSCI_SYSTEM_OFF,
    PSCI_SYSTEM_RESET,
    Canary,
    arm64_canary_program,
)
from harness.guest.guest import Guest
from harness.guest.keys import RunKeys
from harness.guest.start import StartOptions, boot
from harness.images.image import Image
from harness.images.machine_options import MachineOptions
from harness.images.vm_recipe import Kernel, Recipe

pytestmark = pytest.mark.slow

# Seconds for a QEMU with nothing to wait for, on a host that compiles. What ends in less than half of it did not wait.
SOON = 120.0


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINPOINT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("architecture", sorted(CANARIES.keys() & ARCHITECTURES.keys()))
def test_canary_sings_under_emulation(architecture: str) -> None:
    assert choose(ARCHITECTURES[architecture], TCG) == Accelerator(TCG, "forced")


def test_canary_whose_breakpoint_is_not_taken_is_no_canary(monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = {
        "x86_64": (b"\x31\xdb\xcc", b"\x31\xdb\x90"),
        "i386": (b"\x31\xdb\xcc", b"\x31\xdb\x90"),
        "mips": (b"\x00\x00\x00\x0d", bytes(4)),
        "ppc64le": (b"\x7f\xe0\x00\x08", b"\x60\x00\x00\x00"),
        "sh4": (b"\x3a\xc3", b"\x09\x00"),
        "sparc64": (b"\x91\xd0\x20\x70", b"\x01\x00\x00\x00"),
    }
    for architecture, (trap, nop) in deaf.items():
        assert CANARIES[architecture].rom.count(trap) == 1
        rom = CANARIES[architecture].rom.replace(trap, nop)
        monkeypatch.setitem(CANARIES, architecture, replace(CANARIES[architecture], rom=rom))
        with pytest.raises(HostError, match="no output"):
            choose(ARCHITECTURES[architecture], TCG)


@pytest.mark.parametrize("architecture", sorted(CANARIES.keys() & ARCHITECTURES.keys()))
def test_canary_without_its_greeting_is_no_canary(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mute = replace(CANARIES[architecture], rom=CANARIES[architecture].rom.replace(b"canary", b"parrot"))
    monkeypatch.setitem(CANARIES, architecture, mute)
    with pytest.raises(HostError, match="accelerator tcg does not work"):
        choose(ARCHITECTURES[architecture], TCG)


def test_canary_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator_seconds = accelerator._TCG_CANARY_SECONDS
    monkeypatch.setattr(accelerator, "_TCG_CANARY_SECONDS", 1.0)
    monkeypatch.setitem(CANARIES, "arm64", Canary(b"\x00\x00\x00\x14" * 4, rc=0))
    began = time.monotonic()
    with pytest.raises(HostError, match="does not run"):
        choose(ARCHITECTURES["arm64"], TCG)
    assert time.monotonic() - began < accelerator_seconds


def test_verdict_is_remembered_for_this_very_canary(monkeypatch: pytest.MonkeyPatch) -> None:
    canaries = []
    run = accelerator._run_canary
    monkeypatch.setattr(accelerator, "_run_canary", lambda *given: (canaries.append(given), run(*given))[1])
    for _ in range(2):
        choose(ARCHITECTURES["arm64"], TCG)
    assert len(canaries) == 1
    monkeypatch.setitem(CANARIES, "arm64", replace(CANARIES["arm64"], rom=CANARIES["arm64"].rom + b"\0"))
    choose(ARCHITECTURES["arm64"], TCG)
    assert len(canaries) == 2


def test_a_failed_emulation_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "_run_canary", lambda *_: "a busy host")
    with pytest.raises(HostError, match="a busy host"):
        choose(ARCHITECTURES["arm64"], TCG)
    monkeypatch.setattr(accelerator, "_run_canary", lambda *_: "")
    assert choose(ARCHITECTURES["arm64"], TCG).name == TCG
    monkeypatch.setattr(accelerator, "_run_canary", lambda *_: "a busy host")
    assert choose(ARCHITECTURES["arm64"], TCG).name == TCG
    # KVM that cannot run a guest is tried by one canary only, until the host reboots.
    assert accelerator._remembered(ARCHITECTURES["arm64"], KVM, "a version") == "a busy host"
    monkeypatch.setattr(accelerator, "_run_canary", lambda *_: "")
    assert accelerator._remembered(ARCHITECTURES["arm64"], KVM, "a version") == "a busy host"


def test_another_architecture_needs_no_kvm_canary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "s390x")
    chosen = choose(ARCHITECTURES["arm64"])
    assert (chosen.name, chosen.reason) == (TCG, "no kvm: the host is not arm64")
    with pytest.raises(HostError, match="kvm does not work: the host is not arm64"):
        choose(ARCHITECTURES["arm64"], "kvm")


def test_unknown_accelerator_is_wrong_use() -> None:
    with pytest.raises(UsageError, match="one of: kvm, tcg"):
        choose(ARCHITECTURES["arm64"], "xen")


def test_missing_qemu_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match=r"install .*qemu-system-arm"):
        choose(ARCHITECTURES["arm64"])


class Pretender:
    """Boots programs that pretend to be kernels, and records what happened."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def image(self, kernel: bytes, memory_mib: int = 64) -> Image:
        place = self.directory / "kernel"
        place.write_bytes(kernel)
        initrd = self.directory / "initrd"
        initrd.write_bytes(b"")
        recipe = Recipe(
            name="pretender",
            arch="arm64",
            describe="",
            kernel=Kernel(source="debian-binary", package="none"),
            machine=MachineOptions.model_construct(memory_mib=memory_mib),
        )
        return Image(
            recipe=recipe,
            key="",
            kernel=place,
            vmlinux=place,
            initrd=initrd,
            modules={},
            release="",
            build_id="",
            config={},
            facts={},
        )

    def boot(self, kernel: bytes, seconds: float = SOON, memory_mib: int = 64) -> Guest:
        log = self.directory / "console" / "pretender.log"
        beginning = StartOptions(log, RunKeys.make(), Accelerator(TCG, "a test"), Bus(), seconds)
        return boot(self.image(kernel, memory_mib), beginning)


@pytest.fixture
def pretender(tmp_path: Path) -> Iterator[Pretender]:
    accelerator.qemu_version_line("qemu-system-aarch64")
    yield Pretender(tmp_path)
    assert emulators(tmp_path) == set()


def emulators(directory: Path) -> set[int]:
    """Return the QEMU processes whose files are in a directory; other tests may run QEMU at the same time."""
    found, kernel = set(), f"-kernel\0{directory}/".encode()
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            output = command.read_bytes()
        except OSError:
            continue
        if output.startswith(b"qemu-system") and kernel in output:
            found.add(int(command.parent.name))
    return found


def test_panic_at_boot_is_reported_with_the_consoles_last_lines(pretender: Pretender) -> None:
    began = time.monotonic()
    with pytest.raises(BootError, match="did not boot: the kernel panicked") as reported:
        pretender.boot(arm64_canary_program(b"Kernel panic - not syncing: no init\r\ntrace\r\n", PSCI_SYSTEM_RESET))
    assert time.monotonic() - began < SOON / 2
    assert str(reported.value).splitlines()[1:] == ["  Kernel panic - not syncing: no init", "  trace"]
    assert "no init" in (pretender.directory / "console" / "pretender.log").read_text()


def test_power_off_at_boot_ends_the_wait(pretender: Pretender) -> None:
    began = time.monotonic()
    with pytest.raises(BootError, match="the console closed"):
        pretender.boot(arm64_canary_program(b"goodbye\r\n", PSCI_SYSTEM_OFF))
    assert time.monotonic() - began < SOON / 2


def test_silent_hang_ends_at_the_deadline(pretender: Pretender) -> None:
    with pytest.raises(BootError, match=r"not ready in time: it ran for 6 s of \d+ s\n  \(the console is empty\)"):
        pretender.boot(b"\x00\x00\x00\x14" * 4, seconds=6.0)


class NeverRuns:
    """The time account of a guest to which the host gives no processor."""

    def __init__(self, *_: object) -> None:
        """Take what GuestTime takes."""

    def seconds_since_last_call(self) -> float:
        return 0.0


def test_a_guest_that_the_host_does_not_run_is_no_boot_failure(
    pretender: Pretender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_run_time_limit, "_LONGEST_FACTOR", 2)
    monkeypatch.setattr(guest_run_time_limit, "_SHORTEST_SECONDS", 0.0)
    monkeypatch.setattr(guest_run_time_limit, "GuestTime", NeverRuns)
    with pytest.raises(HostError, match=r"the host ran the guest for 0 s of \d+ s"):
        pretender.boot(b"\x00\x00\x00\x14" * 4, seconds=2.0)


def test_a_monitor_that_does_not_answer_at_boot_is_the_hosts_failure(
    pretender: Pretender, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_qemu(guest: Guest, *_: object) -> None:
        os.kill(guest.pid, signal.SIGSTOP)
        monkeypatch.setattr(monitor, "_COMMAND_SECONDS", 2.0)
        guest.monitor.execute("query-status")

    monkeypatch.setattr(start, "_await_line_of_init", stop_qemu)
    with pytest.raises(HostError, match="monitor command query-status did not come in time"):
        pretender.boot(b"\x00\x00\x00\x14" * 4)


def test_readiness_is_not_believed_without_ssh(pretender: Pretender) -> None:
    began = time.monotonic()
    with pytest.raises(BootError, match="the guest stopped: SHUTDOWN guest-shutdown"):
        pretender.boot(arm64_canary_program(b"pinpoint: waiting\r\npinpoint: ready\r\n", PSCI_SYSTEM_OFF))
    assert time.monotonic() - began < SOON / 2


def test_qemus_own_complaint_is_reported(pretender: Pretender) -> None:
    with pytest.raises(HostError, match=r"QEMU does not start: qemu-system-aarch64: .*memory"):
        pretender.boot(b"", memory_mib=1 << 24)


def alone(tmp_path: Path, text: str) -> subprocess.Popen[bytes]:
    """Start a Python process that runs this text with a `pretender`."""
    script = tmp_path / "run.py"
    script.write_text(
        "import sys; from pathlib import Path; sys.path[:0] = sys.argv[1:3]\n"
        "from test_guest_boot import *\n"
        f"pretender = Pretender(Path(sys.argv[3]))\n{text}"
    )
    return subprocess.Popen(
        [sys.executable, str(script), str(paths.PROJECT), str(Path(__file__).parent), str(tmp_path)]
    )


def test_no_descriptor_is_left_of_a_guest(tmp_path: Path) -> None:
    text = """
open_now = []
for _ in range(3):
    try:
        pretender.boot(arm64_canary_program(b"Kernel panic - not syncing: no init\\r\\n", PSCI_SYSTEM_RESET))
    except BootError:
        open_now.append(len(list(Path("/proc/self/fd").iterdir())))
# The first boot made the event loop that all monitors share.
assert len(open_now) == 3 and open_now[0] == open_now[2], open_now
"""
    assert alone(tmp_path, text).wait(SOON) == 0


def test_no_qemu_outlives_a_killed_run(tmp_path: Path) -> None:
    run = alone(tmp_path, "pretender.boot(b'\\x00\\x00\\x00\\x14' * 4, seconds=60.0)\n")
    deadline = Deadline.after(SOON)
    while not (children := emulators(tmp_path)):
        deadline.require_time_left("QEMU's start")
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    while any(Path(f"/proc/{child}").exists() for child in children):
        deadline.require_time_left("QEMU's end")
        time.sleep(0.02)
