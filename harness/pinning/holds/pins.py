"""What pins a module on a kernel: measured, and compared with that kernel's rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from harness.guest.guest import Guest
from harness.images.image import Image
from harness.images.recipe import Traits
from harness.landing.landing import Missed
from harness.pinning.holds import holding
from harness.pinning.holds.holding import Hold
from harness.pinning.module_states import TARGET, delete
from harness.pinning.mutants import LoaderMutant

_MODULE = f"/sys/module/{TARGET}"
_MISC = f"/dev/{TARGET}"
# What delete_module(2) answers for a module in use (try_stop_module(), kernel/module/main.c, 6.1: EWOULDBLOCK).
_IN_USE = "EAGAIN"


def _always(_: Traits) -> bool:
    return True


def _everywhere(_: Image) -> bool:
    return True


def _never(_: Traits) -> bool:
    return False


@dataclass(frozen=True)
class Pin:
    """One thing that may hold a module: how it is held, and whether it should on a kernel of these traits.

    `over` is what it used once the module is gone; `there` is whether the kernel supports it.
    """

    name: str
    hold: Hold
    rule: Callable[[Traits], bool]
    over: str = "ENODEV"
    there: Callable[[Image], bool] = _everywhere


# Two of either kind first, so that a mutant is caught soon. sysfs: kernfs_fop_open() takes no module; debugfs, misc and
# character devices take fops->owner; a dependent, ref_module(); a socket, tcp_set_congestion_control(); BPF,
# bpf_trampoline_module_get(); kprobes only while they are being registered (kernel/kprobes.c). All read in 6.1.
PINS = (
    Pin("refcnt-fd", holding.a_file(f"{_MODULE}/refcnt"), _never),
    Pin("misc-fd", holding.a_file(_MISC), _always),
    Pin("section-fd", holding.a_file(f"{_MODULE}/sections/.data"), lambda traits: traits.section_fd_pins),
    Pin(
        "handle-fd",
        holding.a_file(f"{_MODULE}/sections/.gnu.linkonce.this_module"),
        lambda traits: traits.section_fd_pins,
    ),
    Pin("notes-fd", holding.a_file(f"{_MODULE}/notes/.note.gnu.build-id"), _never),
    Pin("parameter-fd", holding.a_file(f"{_MODULE}/parameters/parameter"), _never),
    Pin("character-fd", holding.a_character_device(), _always),
    Pin("debugfs-fd", holding.a_file(f"/sys/kernel/debug/{TARGET}/file"), _always),
    Pin("dependent-module", holding.a_dependent(), _always),
    Pin("tcp-congestion", holding.a_socket("pinpoint"), _always),
    Pin("bpf-fentry", holding.a_bpf_program(), _always, there=holding.has_fentry),
    Pin("registered-kprobe", holding.a_registered_kprobe(), _never, over="GONE"),
    Pin("tracefs-kprobe", holding.a_tracefs_kprobe(), _never, over="GONE"),
)


@dataclass(frozen=True)
class PinResult:
    """What was seen of one pin.

    `removal` is what `delete_module(2)` answered while it was held and `released` what it did afterwards, empty when
    the module went; `again` is the result of using the held thing between the two.
    """

    pin: Pin
    removal: str
    again: str
    released: str

    @property
    def pinned(self) -> bool:
        """Did it keep the module?"""
        return self.removal != ""

    def prove(self, traits: Traits) -> None:
        """Raise Missed where the kernel does not keep its own rules."""
        wanted = (_IN_USE, "works") if self.pin.rule(traits) else ("", self.pin.over)
        if (self.removal, self.again, self.released) != (*wanted, ""):
            raise Missed(
                f"{self.pin.name}: held, removal gives {self.removal or 'no error'} instead of "
                f"{wanted[0] or 'no error'}; used then, it {self.again} instead of {wanted[1]}; "
                f"let go, removal gives {self.released or 'no error'}"
            )


def measured(guest: Guest, mutant: LoaderMutant) -> Iterator[PinResult]:
    """One row for each of PINS that the kernel has, each with a life of the target of its own."""
    target = holding.target_image(guest)
    for pin in PINS:
        if not pin.there(guest.image):
            continue
        guest.run("insmod", target).check()
        yield _measure(guest, pin, mutant)


def _measure(guest: Guest, pin: Pin, mutant: LoaderMutant) -> PinResult:
    with ExitStack() as held:
        again = held.enter_context(pin.hold(guest))
        if mutant.lets_go:
            held.close()
        if mutant.holds_more:
            held.enter_context(holding.a_file(_MISC)(guest))
        removal = delete(guest, TARGET)
        used = "was let go" if mutant.lets_go else again()
    return PinResult(pin, removal, used, delete(guest, TARGET) if removal else "")
