"""QEMU's command line for a guest, from its recipe and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.guest.accelerator import CONFINED, Accelerator, cpu
from harness.images.recipe import Recipe

# Where QEMU's user network forwards a loopback port of its choosing to: the guest's dropbear.
SSH_PORT = 22

# Warnings and worse on the console. What is less serious stays in the kernel's log, off the emulated UART.
_LOG_LEVEL = 5
_KERNEL_ARGUMENTS = (
    f"loglevel={_LOG_LEVEL}",
    # A panic reboots at once, which QEMU turns into a SHUTDOWN event: the one sign of it that every machine can give.
    "panic=-1",
    # Lines written to /dev/kmsg are not rationed (kernel/printk/printk.c, devkmsg_write()); a fence is such a line.
    "printk.devkmsg=on",
)


@dataclass(frozen=True)
class Wiring:
    """What ties one QEMU to us: descriptors it inherits, files it reads and writes.

    `console` and `monitor` are connected sockets; QEMU itself writes all that the console says to `console_log`. With
    `incoming` it waits to be given a frozen guest instead of starting one. `disk` is the file of a read-only disk, None
    for a guest without one.
    """

    console: int
    monitor: int
    console_log: Path
    kernel: Path
    initrd: Path
    incoming: bool = False
    disk: Path | None = None


def argv(recipe: Recipe, accelerator: Accelerator, wiring: Wiring) -> list[str]:
    """The command line. Nothing listens but the forwarded port, and that on loopback; the guest reaches no network.

    A guest that reboots, panics or powers off stops where it is and its memory stays readable: -no-reboot turns a reset
    into a shutdown, -no-shutdown turns a shutdown into a pause. With -S it begins stopped: QEMU drops the events of the
    time before its monitor was greeted.
    """
    machine = recipe.architecture.machine
    model = cpu(recipe.architecture, accelerator.name)
    return [
        machine.qemu,
        *("-name", f"pinpoint-{recipe.name}", "-nodefaults", "-no-user-config", "-display", "none"),
        *("-no-reboot", "-no-shutdown", "-S", *(("-incoming", "defer") if wiring.incoming else ())),
        *CONFINED,
        *("-machine", machine.machine, "-accel", accelerator.name),
        *(("-cpu", model) if model else ()),
        *("-smp", str(recipe.machine.cpus), "-m", f"{recipe.machine.memory_mib}M"),
        *("-chardev", f"socket,id=console,fd={wiring.console},logfile={_escaped(wiring.console_log)},logappend=on"),
        *("-serial", "chardev:console"),
        *("-chardev", f"socket,id=monitor,fd={wiring.monitor}", "-mon", "chardev=monitor,mode=control"),
        *("-netdev", f"user,id=net,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:0-:{SSH_PORT}"),
        # No boot ROM: nothing here boots from the network, and firmware would spend time on running it.
        *("-device", f"{machine.nic},netdev=net,romfile="),
        *(word for device in machine.devices for word in ("-device", device)),
        *(_disk(machine.disk, wiring.disk) if wiring.disk else ()),
        *("-kernel", str(wiring.kernel), "-initrd", str(wiring.initrd), "-append", kernel_arguments(recipe)),
    ]


def _disk(device: str, file: Path) -> list[str]:
    """The options of a disk that the guest can only read, and QEMU, too."""
    backend = f"driver=raw,node-name=disk,read-only=on,file.driver=file,file.filename={_escaped(file)}"
    return ["-blockdev", backend, "-device", f"{device},drive=disk"]


def kernel_arguments(recipe: Recipe) -> str:
    """The kernel's command line; what the recipe appends wins, unless it hides complaints from the console.

    A kernel that is told to be quiet does not print a WARNING there, and one that prints no times cannot be told from
    the programs that share the console.
    """
    machine = recipe.architecture.machine
    appended = recipe.machine.append.split()
    words = [f"console={machine.console}", *_KERNEL_ARGUMENTS, *machine.kernel_arguments, *appended]
    return " ".join([*words, *([f"loglevel={_LOG_LEVEL}"] if _hushes(appended) else []), "printk.time=1"])


def _hushes(words: Sequence[str]) -> bool:
    """Do these arguments leave the console with fewer lines than _LOG_LEVEL shows?"""
    level = _LOG_LEVEL
    for word in words:
        name, _, value = word.partition("=")
        if name == "quiet":
            level = 4
        elif name == "loglevel":
            level = int(value) if value.isdigit() else 0
    return level < _LOG_LEVEL


def _escaped(path: Path) -> str:
    """A path inside an option that commas divide (qemu-options.hx: a literal comma is doubled)."""
    return str(path).replace(",", ",,")
