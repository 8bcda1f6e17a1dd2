"""Every registration of a kprobe or a uprobe in a guest while `pinpoint_watch` is loaded there (probes/watch)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from harness.core.errors import GuestError
from harness.core.kernel_errno_names import kernel_errno_name
from harness.guest.guest import Guest

MODULE = "pinpoint_watch"
FILE = f"/sys/kernel/debug/{MODULE}/registrations"
UPROBES = f"/sys/kernel/debug/{MODULE}/uprobes"
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Registration:
    """One call: what was asked for, and what the kernel returned.

    `nanoseconds` is the guest's monotonic time at the call; `errno` is positive, 0 for a kprobe that was registered;
    `address` is `kp.addr`, 0 when refused; `symbol` is empty for a kprobe that was asked for by address, else `SYM` or
    `MOD:SYM`; `handler` is a handler of the probe's owner, 0 if it has none: on parisc the address of its descriptor;
    `command` is the name of the calling process; `kprobe` is the address of the `struct kprobe`.
    """

    nanoseconds: int
    errno: int
    address: int
    symbol: str
    offset: int
    handler: int
    command: str
    disabled: bool
    kprobe: int = 0

    @property
    def refusal(self) -> str:
        """The errno as a name, empty for a kprobe that was registered."""
        return kernel_errno_name(self.errno) if self.errno else ""

    @property
    def asked_symbol_offset(self) -> str:
        """What was asked for, as `MOD:SYM+0xOFF`; empty for an address."""
        return f"{self.symbol}+{self.offset:#x}" if self.symbol else ""


@dataclass(frozen=True)
class UprobeRegistration:
    """One registration of a uprobe: the offset into a file, which is known by its device, inode and one of its names.

    `nanoseconds` and `errno` are as in Registration; `file` is empty for a file without a name.
    """

    nanoseconds: int
    errno: int
    device: str
    inode: int
    offset: int
    file: str
    command: str

    @property
    def asked(self) -> str:
        """What was asked for, as `FILE:0xOFF`."""
        return f"{self.file or f'inode {self.inode} of {self.device}'}:{self.offset:#x}"


@dataclass(frozen=True)
class Records:
    """What the module recorded: the calls in the order of their return, and the time of reading.

    The `lost` counts are of calls that the module could not record, at most: it was full, or its own probe was missed.
    `watched_uprobe_functions` is how many of the kernel's functions that register uprobes are watched.
    """

    registrations: tuple[Registration, ...] = ()
    lost_count: int = 0
    read_at_nanoseconds: int = 0
    uprobe_registrations: tuple[UprobeRegistration, ...] = ()
    lost_uprobe_count: int = 0
    watched_uprobe_functions: int = 0


def parse_registrations(text: str, host_errno: Callable[[int], int] = int) -> Records:
    """Read the module's two files, one behind the other. Raises GuestError, one line, for anything else.

    `host_errno` converts the kernel's number of an error to the host's (`Architecture.host_errno`).
    """
    calls, uprobes, lost, lost_uprobes, functions, now = [], [], 0, 0, 0, 0
    for line in text.splitlines():
        fields = dict(word.split("=", 1) for word in line.split(" ") if "=" in word)
        try:
            if "errno" in fields:
                fields["errno"] = str(host_errno(int(fields["errno"])))
            if "now" in fields:
                lost, now = int(fields["lost"]), int(fields["now"])
            elif "lost" in fields:
                lost_uprobes, functions = int(fields["lost"]), int(fields["functions"])
            elif "inode" in fields:
                uprobes.append(_uprobe(fields))
            else:
                calls.append(_call(fields))
        except (KeyError, ValueError):
            raise GuestError(f"not a registration: {line[:80]!r}", where=MODULE) from None
    return Records(tuple(calls), lost, now, tuple(uprobes), lost_uprobes, functions)


def _uprobe(fields: dict[str, str]) -> UprobeRegistration:
    file = _plain(fields["file"])
    return UprobeRegistration(
        nanoseconds=int(fields["time"]),
        errno=int(fields["errno"]),
        device=fields["device"],
        inode=int(fields["inode"]),
        offset=int(fields["offset"], 16),
        file="" if file == "-" else file,
        command=_plain(fields["command"]),
    )


def _call(fields: dict[str, str]) -> Registration:
    symbol = _plain(fields["symbol"])
    return Registration(
        nanoseconds=int(fields["time"]),
        errno=int(fields["errno"]),
        address=int(fields["address"], 16),
        symbol="" if symbol == "-" else symbol,
        offset=int(fields["offset"]),
        handler=int(fields["handler"], 16),
        command=_plain(fields["command"]),
        disabled=fields["disabled"] == "1",
        kprobe=int(fields["kprobe"], 16),
    )


def _plain(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def load_watch_module(guest: Guest) -> None:
    """Load the module. Raises GuestError when the kernel refuses it."""
    kprobes = guest.image.recipe.architecture.kprobe_traits
    arguments = (
        f"argument={kprobes.first_argument_pt_regs_offset}",
        f"second_argument={kprobes.second_argument_pt_regs_offset}",
    )
    guest.run("insmod", guest.copy_module(MODULE), *arguments).check()


def unload_watch_module(guest: Guest) -> None:
    """Unload the module. Raises GuestError when the kernel refuses."""
    guest.run("rmmod", MODULE).check()
