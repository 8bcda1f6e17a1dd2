"""Measures what pins a module on a kernel, and compares it with the kernel's rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from harness.guest.guest import Guest
from harness.images.image import Image
from harness.images.vm_recipe import Traits
from harness.landing.landing_judgment import Missed
from harness.landing.target import HANDLE_SECTION
from harness.pinning.hold_module_in_state import TARGET, delete_module
from harness.pinning.holds import module_holders
from harness.pinning.holds.module_holders import Hold
from harness.pinning.mutants import LoaderMutant

_MODULE = f"/sys/module/{TARGET}"
_MISC = f"/dev/{TARGET}"
# The errno of delete_module(2) for a module in use (try_stop_module(), kernel/module/main.c, 6.1: EWOULDBLOCK).
_IN_USE = "EAGAIN"


def _always(_: Traits) -> bool:
    return True


def _everywhere(_: Image) -> bool:
    return True


def _never(_: Traits) -> bool:
    return False


@dataclass(frozen=True)
class PinRule:
    """One thing that may hold a module.

    `hold` holds it; `pins_module` returns True if it pins the module on a kernel with these traits.
    `result_after_removal` is the result of using it after the module is removed. `is_supported` returns True if the
    kernel supports it.
    """

    name: str
    hold: Hold
    pins_module: Callable[[Traits], bool]
    result_after_removal: str = "ENODEV"
    is_supported: Callable[[Image], bool] = _everywhere


# One that does not pin and one that does come first, so that a mutant is caught early. The rules are read in 6.1: sysfs
# takes no module reference (kernfs_fop_open()); debugfs, misc and character devices take fops->owner; a dependent takes
# one in ref_module(), a socket in tcp_set_congestion_control(), BPF in bpf_trampoline_module_get(); kprobes hold one
# only while they are being registered (kernel/kprobes.c).
PINS = (
    PinRule("refcnt-fd", module_holders.open_file_hold(f"{_MODULE}/refcnt"), _never),
    PinRule("misc-fd", module_holders.open_file_hold(_MISC), _always),
    PinRule(
        "section-fd", module_holders.open_file_hold(f"{_MODULE}/sections/.data"), lambda traits: traits.section_fd_pins
    ),
    PinRule(
        "handle-fd",
        module_holders.open_file_hold(f"{_MODULE}/sections/{HANDLE_SECTION}"),
        lambda traits: traits.section_fd_pins,
    ),
    PinRule("notes-fd", module_holders.open_file_hold(f"{_MODULE}/notes/.note.gnu.build-id"), _never),
    PinRule("parameter-fd", module_holders.open_file_hold(f"{_MODULE}/parameters/parameter"), _never),
    PinRule("character-fd", module_holders.character_device_hold(), _always),
    PinRule("debugfs-fd", module_holders.open_file_hold(f"/sys/kernel/debug/{TARGET}/file"), _always),
    PinRule("dependent-module", module_holders.dependent_module_hold(), _always),
    PinRule("tcp-congestion", module_holders.tcp_congestion_control_hold("pinpoint"), _always),
    PinRule("bpf-fentry", module_holders.bpf_program_hold(), _always, is_supported=module_holders.supports_bpf_fentry),
    PinRule("registered-kprobe", module_holders.registered_kprobe_hold(), _never, result_after_removal="GONE"),
    PinRule("tracefs-kprobe", module_holders.tracefs_kprobe_hold(), _never, result_after_removal="GONE"),
)


@dataclass(frozen=True)
class PinResult:
    """The result for one pin.

    `removal_errno` is the errno name of `delete_module(2)` while the pin was held, `errno_after_release` of a second
    one after that; both are empty if the module was removed. `use_result` is the result of using the held thing between
    the two.
    """

    pin: PinRule
    removal_errno: str
    use_result: str
    errno_after_release: str

    @property
    def pinned(self) -> bool:
        """True if the pin prevented removal."""
        return self.removal_errno != ""

    def prove(self, traits: Traits) -> None:
        """Raise Missed if the result differs from the kernel's rule."""
        wanted = (_IN_USE, "works") if self.pin.pins_module(traits) else ("", self.pin.result_after_removal)
        if (self.removal_errno, self.use_result, self.errno_after_release) != (*wanted, ""):
            raise Missed(
                f"{self.pin.name}: while held, removal returned {self.removal_errno or 'no error'} instead of "
                f"{wanted[0] or 'no error'}; used after that: {self.use_result} instead of {wanted[1]}; "
                f"after release, removal returned {self.errno_after_release or 'no error'}"
            )


def measure_pins(guest: Guest, mutant: LoaderMutant) -> Iterator[PinResult]:
    """Yield one result for each of PINS that the kernel supports; the target is loaded again for each."""
    target = module_holders.target_path_in_guest(guest)
    for pin in PINS:
        if not pin.is_supported(guest.image):
            continue
        guest.run("insmod", target).check()
        yield _measure(guest, pin, mutant)


def _measure(guest: Guest, pin: PinRule, mutant: LoaderMutant) -> PinResult:
    with ExitStack() as held:
        again = held.enter_context(pin.hold(guest))
        if mutant.releases_pin_early:
            held.close()
        if mutant.holds_extra_pin:
            held.enter_context(module_holders.open_file_hold(_MISC)(guest))
        removal = delete_module(guest, TARGET)
        used = "released" if mutant.releases_pin_early else again()
    return PinResult(pin, removal, used, delete_module(guest, TARGET) if removal else "")
