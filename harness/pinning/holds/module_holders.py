"""Things that may hold a module: each is held while its `with` block runs, and can be used again meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from harness.core.elf import Elf
from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.guest.result import parsing_guest_text
from harness.images.image import Image
from harness.landing import probe_module
from harness.pinning.doctored_modules import copy_to_guest
from harness.pinning.hold_module_in_state import HOLDER, TARGET, accepted_entry_spec
from harness.pinning.holds.btf_encoder import BaseBtfSizes, with_btf_in_placeholder
from harness.pinning.loader import LoaderLine

_EVENT = "pinpoint/held"
_TRACING = "/sys/kernel/tracing"
_SECONDS = 60.0
_FENTRY = ("BPF_SYSCALL", "BPF_JIT", "DEBUG_INFO_BTF_MODULES", "DYNAMIC_FTRACE_WITH_DIRECT_CALLS")

# Uses the held thing again. Returns `works`, the errno's name, or GONE for a kprobe.
UseAgain = Callable[[], str]
Hold = Callable[[Guest], AbstractContextManager[UseAgain]]


def open_file_hold(path: str) -> Hold:
    """An open file; `again` reads it."""
    return _by_holder("file", path)


def character_device_hold() -> Hold:
    """An open character device; its node is made with the major number that the kernel assigned to the target."""

    @contextmanager
    def hold(guest: Guest) -> Iterator[UseAgain]:
        node = "/tmp/pinpoint_char"
        guest.run_script(
            f"rm -f {node}; mknod {node} c $(awk '$2 == \"{TARGET}\" {{print $1}}' /proc/devices) 0"
        ).check()
        with open_file_hold(node)(guest) as again:
            yield again

    return hold


def tcp_congestion_control_hold(congestion_control: str) -> Hold:
    """A TCP socket with a congestion control; `again` reads its name."""
    return _by_holder("tcp", congestion_control)


def bpf_program_hold() -> Hold:
    """A BPF program on a function's entry.

    `again` queries its link. The target must be loaded from `target_path_in_guest`.
    """

    @contextmanager
    def hold(guest: Guest) -> Iterator[UseAgain]:
        with _by_holder("fentry", f"{TARGET}:{_btf_base(guest).new_function_type_id}")(guest) as again:
            yield again

    return hold


def supports_bpf_fentry(image: Image) -> bool:
    """True if the kernel has BTF of modules and can call a BPF program from a function's entry."""
    return all(image.config.get(f"CONFIG_{option}") == "y" for option in _FENTRY)


def target_path_in_guest(guest: Guest) -> str:
    """The path of the target's file in the guest; it has BTF if the kernel reads BTF of modules."""
    if not supports_bpf_fentry(guest.image):
        return guest.copy_module(TARGET)
    return copy_to_guest(
        guest, f"{TARGET}-btf", with_btf_in_placeholder(Elf.read_cached(guest.image.modules[TARGET]), _btf_base(guest))
    )


def _btf_base(guest: Guest) -> BaseBtfSizes:
    line = LoaderLine.parse(
        guest.run(guest.copy_program(HOLDER), "btf", "/sys/kernel/btf/vmlinux").check().stdout.strip()
    )
    with parsing_guest_text("a line of the loader"):
        return BaseBtfSizes(int(line.fields["types"]), int(line.fields["strings"]))


def dependent_module_hold() -> Hold:
    """A loaded module that needs a symbol of the target."""

    @contextmanager
    def hold(guest: Guest) -> Iterator[UseAgain]:
        guest.run("insmod", guest.copy_module("pinpoint_depends")).check()
        yield lambda: "works" if guest.run_script("[ -e /sys/module/pinpoint_depends ]").ok else "GONE"
        guest.run("rmmod", "pinpoint_depends").check()

    return hold


def registered_kprobe_hold() -> Hold:
    """A kprobe on a function of the target; `again` reads the kernel's list."""

    @contextmanager
    def hold(guest: Guest) -> Iterator[UseAgain]:
        standing = probe_module.read_kprobe_list(guest)
        spec = accepted_entry_spec(guest)
        report = probe_module.load_probe_module(guest, [spec]).reports[0]
        if report.errno:
            raise GuestError(f"no kprobe on {spec}: errno {report.errno}", where=guest.name)
        yield lambda: _listed(probe_module.read_view(guest).newly_listed(standing))
        probe_module.unload_probe_module(guest)

    return hold


def tracefs_kprobe_hold() -> Hold:
    """An enabled kprobe on a function of the target, made through tracefs; `again` reads the kernel's list."""

    @contextmanager
    def hold(guest: Guest) -> Iterator[UseAgain]:
        standing = probe_module.read_kprobe_list(guest)
        enable = f"{_TRACING}/events/{_EVENT}/enable"
        spec = accepted_entry_spec(guest)
        guest.run_script(f"echo 'p:{_EVENT} {spec}' >{_TRACING}/kprobe_events && echo 1 >{enable}").check()
        yield lambda: _listed(tuple(each for each in probe_module.read_kprobe_list(guest) if each not in standing))
        guest.run_script(f"echo 0 >{enable}; echo '-:{_EVENT}' >>{_TRACING}/kprobe_events").check()

    return hold


def _listed(probes: tuple[probe_module.ListedProbe, ...]) -> str:
    if len(probes) != 1:
        return f"{len(probes)} listed"
    return "GONE" if "[GONE]" in probes[0].flags else "works"


def _by_holder(kind: str, what: str) -> Hold:
    """Hold something through the program pinpoint_holder (probes/loader/holder.c)."""

    @contextmanager
    def hold(guest: Guest) -> Iterator[UseAgain]:
        deadline = guest.scaled_deadline(_SECONDS)
        with guest.start_dialogue(guest.copy_program(HOLDER), kind, what) as dialogue:

            def next_line(step: str) -> LoaderLine:
                line = dialogue.read_line(deadline)
                parsed = LoaderLine.parse(line or "failed nothing")
                if parsed.step != step or parsed.word == "failed":
                    raise GuestError(f"{kind} {what} cannot be held: {line}", where=guest.name)
                return parsed

            next_line("hold")
            next_line("again")

            def again() -> str:
                dialogue.send_line("go", deadline)
                errno = next_line("again").fields["errno"]
                return "works" if errno == "0" else errno

            yield again
            dialogue.close_input()
            dialogue.await_exit_status(deadline)

    return hold
