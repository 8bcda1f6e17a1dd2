"""QEMU's command line for a guest, made from the guest's recipe only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.guest.accelerator import SANDBOX_ARGUMENTS, Accelerator, cpu_model
from harness.images.vm_recipe import Recipe

# Port of the guest's dropbear. QEMU's user network chooses a loopback port and forwards it to this one.
SSH_PORT = 22

# The console prints warnings and worse. Less serious messages stay in the kernel's log, off the emulated UART.
_LOG_LEVEL = 5
_KERNEL_ARGUMENTS = (
    f"loglevel={_LOG_LEVEL}",
    # A panic reboots at once, which QEMU reports as a SHUTDOWN event: the only report that every machine supports.
    "panic=-1",
    # No rate limit for lines written to /dev/kmsg, such as fences (kernel/printk/printk.c, devkmsg_write()).
    "printk.devkmsg=on",
    # Mutants write to read-only pages of a process through /proc/PID/mem, which kernels since 6.12 may refuse
    # (early_proc_mem_force_override(), fs/proc/base.c).
    "proc_mem.force_override=always",
)


@dataclass(frozen=True)
class QemuFiles:
    """Descriptors that one QEMU inherits, and files that it reads.

    `console_descriptor` and `monitor_descriptor` are connected sockets. With `awaits_frozen_guest`, QEMU waits for a
    frozen guest instead of starting a new one. `disk` is the file of a read-only disk, or None for a guest without one.
    """

    console_descriptor: int
    monitor_descriptor: int
    kernel: Path
    initrd: Path
    awaits_frozen_guest: bool = False
    disk: Path | None = None


def argv(recipe: Recipe, accelerator: Accelerator, wiring: QemuFiles) -> list[str]:
    """Return the command line. The only listener is the forwarded port, on loopback; the guest reaches no network.

    A guest that reboots, panics or powers off stops where it is and its memory stays readable: -no-reboot turns a reset
    into a shutdown, -no-shutdown turns a shutdown into a pause. With -S the guest starts stopped, because QEMU drops
    events before the monitor's handshake.
    """
    machine = recipe.architecture.qemu_machine
    model = cpu_model(recipe.architecture, accelerator.name)
    return [
        machine.qemu,
        *("-name", f"pinpoint-{recipe.name}", "-nodefaults", "-no-user-config", "-display", "none"),
        *("-no-reboot", "-no-shutdown", "-S", *(("-incoming", "defer") if wiring.awaits_frozen_guest else ())),
        *SANDBOX_ARGUMENTS,
        *("-machine", machine.machine, "-accel", accelerator.name),
        *(("-cpu", model) if model else ()),
        *("-smp", str(recipe.machine.cpus), "-m", f"{recipe.machine.memory_mib}M"),
        *("-chardev", f"socket,id=console,fd={wiring.console_descriptor}"),
        *machine.serial_ports("chardev:console"),
        *("-chardev", f"socket,id=monitor,fd={wiring.monitor_descriptor}", "-mon", "chardev=monitor,mode=control"),
        *("-netdev", f"user,id=net,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:0-:{SSH_PORT}"),
        # No boot ROM: no guest boots from the network, and the firmware would take time to run it.
        *("-device", f"{machine.nic},netdev=net{',romfile=' if machine.nic_has_rom else ''}"),
        *(word for device in machine.devices for word in ("-device", device)),
        *(_disk(machine.disk, wiring.disk) if wiring.disk else ()),
        *("-kernel", str(wiring.kernel), "-initrd", str(wiring.initrd), "-append", kernel_arguments(recipe)),
    ]


def _disk(device: str, file: Path) -> list[str]:
    """The options of a disk that the guest can only read, and QEMU, too."""
    backend = f"driver=raw,node-name=disk,read-only=on,file.driver=file,file.filename={_escaped(file)}"
    return ["-blockdev", backend, "-device", f"{device},drive=disk"]


def kernel_arguments(recipe: Recipe) -> str:
    """Return the kernel's command line; arguments of the recipe win, unless they hide complaints from the console.

    A kernel with `quiet` does not print a WARNING on the console. Without times, the kernel's lines cannot be
    distinguished from those of programs that share the console.
    """
    machine = recipe.architecture.qemu_machine
    appended = recipe.machine.append.split()
    words = [f"console={machine.console}", *_KERNEL_ARGUMENTS, *machine.kernel_arguments, *appended]
    return " ".join([*words, *([f"loglevel={_LOG_LEVEL}"] if _hushes(appended) else []), "printk.time=1"])


def _hushes(words: Sequence[str]) -> bool:
    """Return True when these arguments leave the console with a lower log level than _LOG_LEVEL."""
    level = _LOG_LEVEL
    for word in words:
        name, _, value = word.partition("=")
        if name == "quiet":
            level = 4
        elif name == "loglevel":
            level = int(value) if value.isdigit() else 0
    return level < _LOG_LEVEL


def _escaped(path: Path) -> str:
    """Return a path as part of an option with comma-separated values (qemu-options.hx: a literal comma is doubled)."""
    return str(path).replace(",", ",,")
