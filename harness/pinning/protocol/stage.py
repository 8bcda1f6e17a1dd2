"""A guest as the stage of schedules: takes each step there and reads its outcome."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from types import TracebackType
from typing import Self
from weakref import WeakKeyDictionary

from harness.guest.guest import Guest
from harness.landing.freed_module_addresses import free_addresses_of_removed_modules
from harness.landing.target import HANDLE_SECTION, Target
from harness.pinning import doctored_modules
from harness.pinning.hold_module_in_state import delete_module
from harness.pinning.loader import PROBE, LoaderOrder
from harness.pinning.loader_fixture import Loaders, order_with_target_build_id, site_parameter_at_entry
from harness.pinning.protocol.loader_actor import GATES, INITIALIZER_GATES, LoaderActor
from harness.pinning.protocol.model import OK, World
from harness.pinning.protocol.steps import INITIALIZER, ScheduleStep, Verb

TARGET = "pinpoint_target"
OTHER_BUILD = "rebuilt/pinpoint_target"
_PLACE = (
    f"cat /sys/module/{TARGET}/sections/{HANDLE_SECTION} && sed -n 's/^{TARGET} .* \\(0x[^ ]*\\).*/\\1/p' /proc/modules"
)
_PRESENT = "File exists"
_STATE = (
    f"read n 2>/dev/null </sys/module/{TARGET}/refcnt && echo target referenced $n times || echo no target;"
    f"read s 2>/dev/null </sys/module/{PROBE}/initstate && echo probe $s || echo no probe"
)


class GuestStage:
    """The stage of one schedule; entering it loads the target, leaving it ends all loaders and removes all modules."""

    def __init__(self, loading: Loaders) -> None:
        self._guest = loading.guest
        self._loading = loading
        self._order = _order(self._guest)
        self._actors: dict[int, LoaderActor] = {}
        self._loaders = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._files = _files(self._guest)
        free_addresses_of_removed_modules(self._guest)
        self._place = (
            self._guest.run_script(f"insmod {self._files[Verb.RELOAD]} && {_PLACE}", in_place=True).check().stdout
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every loader, let every initializer return, and remove the modules that are loaded."""
        self._loaders.close()
        for actor in self._actors.values():
            actor.open_gates_until_end()
        removed = (f"{{ [ ! -d /sys/module/{name} ] || rmmod {name}; }}" for name in (PROBE, TARGET))
        self._guest.run_script(" && ".join(removed), in_place=True).check()

    def last_target_place(self) -> str:
        """Handle and base of the target, as its files in sysfs and /proc/modules show them."""
        return self._place

    def kernel_state(self) -> str:
        """The target's reference count and the probe module's state in sysfs."""
        target, probe = self._guest.run_script(_STATE, in_place=True).check().stdout.splitlines()
        return f"{target}, {probe.replace('coming', 'loading')}"

    def take_step(self, step: ScheduleStep, now: World) -> str:
        """Take a step as its actor. Returns the outcome."""
        match step.verb:
            case Verb.REMOVE:
                outcome = self._delete(TARGET)
            case Verb.FORCE:
                outcome = self._delete(TARGET, force=True)
            case Verb.UNPROBE:
                outcome = self._delete(PROBE)
            case Verb.RELOAD | Verb.REBUILD | Verb.IMITATE:
                outcome = self._load(self._files[step.verb])
            case Verb.KILL:
                outcome = self._actor(step.loader).kill()
            case _:
                outcome = self._actor(step.loader).take_step(step.verb)
        return outcome + self._befallen(step, now)

    def _delete(self, module: str, *, force: bool = False) -> str:
        # EAGAIN and EWOULDBLOCK are the same number; the kernel's source uses EWOULDBLOCK.
        return delete_module(self._guest, module, force=force).replace("EAGAIN", "EWOULDBLOCK") or OK

    def _load(self, path: str) -> str:
        free_addresses_of_removed_modules(self._guest)
        loaded = self._guest.run_script(f"insmod {path} && {_PLACE}", in_place=True)
        if not loaded.ok and _PRESENT in loaded.stderr:
            return "EEXIST"
        self._place = loaded.check().stdout
        return OK

    def _actor(self, number: int) -> LoaderActor:
        """A loader; it is started at its first step."""
        if number not in self._actors:
            loader = self._loaders.enter_context(self._loading(self._order))
            self._actors[number] = LoaderActor(self._guest, loader)
        return self._actors[number]

    def _befallen(self, step: ScheduleStep, now: World) -> str:
        """The outcomes of loaders that waited for the name, if an initializer has ended in this step."""
        if step.verb not in INITIALIZER or self._actors[step.loader].inside:
            return ""
        waiting = [number for number, loader in now.loaders.items() if loader.waiting]
        return "".join(
            f", {ScheduleStep(Verb.LOAD, number)} {self._actors[number].await_load_after_other_load()}"
            for number in waiting
        )


_shipped: WeakKeyDictionary[Guest, Mapping[Verb, str]] = WeakKeyDictionary()


def _files(guest: Guest) -> Mapping[Verb, str]:
    """The path of each build's file in the guest; the files are copied there on first use."""
    if guest not in _shipped:
        imitation = doctored_modules.with_another_build_id(Target(guest, TARGET).elf)
        _shipped[guest] = {
            Verb.RELOAD: guest.copy_module(TARGET),
            Verb.REBUILD: guest.copy_module(OTHER_BUILD),
            Verb.IMITATE: doctored_modules.copy_to_guest(guest, "imitation", imitation),
        }
    return _shipped[guest]


def _order(guest: Guest) -> LoaderOrder:
    """An order for a probe on the entry of the target's leaf, precompiled for its first build, with all gates."""
    target = Target(guest, TARGET)
    leaf = target.elf.function("pinpoint_leaf")
    parameters = [f"gates={','.join(INITIALIZER_GATES)}", site_parameter_at_entry(target, leaf)]
    return order_with_target_build_id(
        target, LoaderOrder(sections=[(TARGET, leaf.section)], gates=GATES, parameters=parameters)
    )
