"""A frozen guest is used only on the machine and QEMU that froze it, and the store keeps those that a run thaws."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.core.events import Bus, ProgressStep
from harness.guest.accelerator import Accelerator
from harness.guest.boot_clock_check import GuestClockWrong
from harness.guest.qemu_process import FrozenGuestRefused
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.machine_options import MachineOptions
from harness.images.store import Store
from harness.images.vm_recipe import Kernel, Recipe
from harness.matrix.guests import freezer
from harness.matrix.guests.make_once_per_key import Once

TCG = Accelerator("tcg", "a test")
DAY = 24 * 3600.0


def empty(entry: Path, _step: ProgressStep) -> Mapping[str, Any]:
    """Write an empty frozen guest."""
    (entry / "state").write_text("")
    return {}


def parts(key: str = "an-image", accelerator: Accelerator = TCG, cpu: str = "", **machine: int) -> list[str]:
    recipe = Recipe(
        name="a-vm",
        arch="arm64",
        describe="",
        kernel=Kernel(source="debian-binary", package="none"),
        machine=MachineOptions(cpu=cpu, **machine),
    )
    return freezer.frozen_guest_key_parts(cast(Image, SimpleNamespace(key=key, recipe=recipe, disk=None)), accelerator)


def test_one_guest_thaws_on_the_machine_it_was_frozen_on() -> None:
    assert parts() == parts()
    others = [parts("another"), parts(cpus=2), parts(memory_mib=256), parts(accelerator=Accelerator("kvm", ""))]
    assert all(other != parts() for other in [*others, parts(cpu="cortex-a76")])


def test_another_qemu_never_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = parts()
    monkeypatch.setattr(freezer, "qemu_version_line", lambda _program: "QEMU emulator version 99.0")
    assert parts() != before


def test_what_no_run_thaws_is_dropped(tmp_path: Path) -> None:
    store = Store(tmp_path, Bus())
    fresh, old = (store.obtain("frozen", [name], vm="a-vm", build=empty) for name in ("fresh", "old"))
    other = store.obtain("kernel", ["old"], vm="a-vm", build=empty)
    for entry in (old, other):
        os.utime(entry.path, (time.time() - 2 * DAY,) * 2)
    # This process uses the entry that it obtained, so no other process may drop it; a later run may.
    Store(tmp_path, Bus()).remove_unused_of_kind("frozen", DAY)
    assert old.path.exists()
    for handle in store._used.values():
        os.close(handle)
    Store(tmp_path, Bus()).remove_unused_of_kind("frozen", DAY)
    assert (fresh.path.exists(), old.path.exists(), other.path.exists()) == (True, False, True)


def test_what_a_run_obtains_is_used(tmp_path: Path) -> None:
    store = Store(tmp_path, Bus())
    for _ in range(2):
        entry = store.obtain("frozen", ["x"], vm="a-vm", build=empty)
        os.utime(entry.path, (time.time() - 2 * DAY,) * 2)
    store.obtain("frozen", ["x"], vm="a-vm", build=empty)
    store.remove_unused_of_kind("frozen", DAY)
    assert entry.path.exists()


def test_made_once_for_all_who_ask() -> None:
    once: Once[str, None] = Once()
    made: list[int] = []
    entered = threading.Barrier(4)

    def obtain() -> None:
        entered.wait(60)
        once.get("key", lambda: made.append(1))

    threads = [threading.Thread(target=obtain) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert made == [1]


def test_a_wrong_clock_of_the_guest_to_freeze_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    made = freezer.Freezer(cast(BuildContext, None), Bus(), None)
    results = iter([GuestClockWrong("too fast"), Path("state")])

    def freeze(*_: object) -> Path:
        found = next(results)
        if isinstance(found, GuestClockWrong):
            raise found
        return found

    monkeypatch.setattr(made, "_parts", lambda _: ["a-vm"])
    monkeypatch.setattr(made, "_obtain", freeze)
    with pytest.raises(GuestClockWrong):
        made.obtain_frozen_state_file(cast(Image, None), cast(freezer.Boot, None))
    assert made.obtain_frozen_state_file(cast(Image, None), cast(freezer.Boot, None)) == Path("state")


def test_what_making_raised_is_raised_to_each() -> None:
    once: Once[str, int] = Once()

    def fail() -> int:
        raise OSError("no")

    for _ in range(2):
        with pytest.raises(OSError, match="no"):
            once.get("key", fail)


def test_a_guest_is_thawed_for_a_shell_only_where_one_is_frozen_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(name="a-vm", arch="arm64", describe="", kernel=Kernel(source="debian-binary", package="none"))
    image = cast(Image, SimpleNamespace(key="an-image", recipe=recipe, disk=None))
    monkeypatch.setattr(freezer, "choose", lambda *_: TCG)
    store = Store(tmp_path, Bus())

    def made() -> freezer.Freezer:
        return freezer.Freezer(cast(Any, SimpleNamespace(store=store)), Bus(), None)

    def boot(_: object) -> Any:  # noqa: ANN401
        pytest.fail("a guest was booted to be frozen")

    assert made().find_frozen_state_file(image, boot) is None
    entry = store.obtain(freezer.KIND, freezer.frozen_guest_key_parts(image, TCG), vm="a-vm", build=empty)
    assert made().find_frozen_state_file(image, boot) == entry.path / "state"

    def refused(*_: object) -> None:
        raise FrozenGuestRefused("not this one")

    monkeypatch.setattr(freezer.start, "thaw", refused)
    with pytest.raises(FrozenGuestRefused):
        made().thaw(image, entry.path / "state", cast(Any, None))
    assert made().find_frozen_state_file(image, boot) is None


class Proving:
    """A freezer whose guests boot at once; `proved` are those whose traits were proved."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.proved: list[object] = []
        self.wrong: Exception | None = None
        context = SimpleNamespace(store=Store(directory, Bus()))
        self.freezer = freezer.Freezer(cast(Any, context), Bus(), None)
        monkeypatch.setattr(freezer, "choose", lambda *_: TCG)
        monkeypatch.setattr(freezer.start, "thaw", lambda *_: pytest.fail("a guest was thawed"))
        monkeypatch.setattr(freezer.check_after_cell, "record_state_before_first_cell", lambda _: "")
        monkeypatch.setattr(freezer.check_after_cell, "check_after_cell", lambda _: "")
        monkeypatch.setattr(freezer.prove_recipe_traits, "prove_traits", self._prove)

    def start(self, memory_mib: int = 512) -> Any:  # noqa: ANN401
        """Start a guest of a machine that QEMU cannot save."""
        recipe = Recipe(
            name="a-vm",
            arch="parisc64",
            describe="",
            kernel=Kernel(source="debian-source", package="none"),
            machine=MachineOptions(memory_mib=memory_mib),
        )
        image = cast(Image, SimpleNamespace(key="an-image", recipe=recipe, disk=None))
        assert self.freezer.find_frozen_state_file(image, cast(Any, pytest.fail)) is None
        guest = SimpleNamespace(name="a-vm", stopped=False, keys=None)
        guest.stop = lambda: setattr(guest, "stopped", True)

        def boot(keys: object) -> Any:  # noqa: ANN401
            guest.keys = keys
            return guest

        self.last = guest
        return self.freezer.start_guest(image, boot, cast(Any, SimpleNamespace(keys="the run's")))

    def _prove(self, guest: object) -> None:
        if self.wrong:
            raise self.wrong
        self.proved.append(guest)


@pytest.fixture
def proving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proving:
    return Proving(tmp_path, monkeypatch)


def test_a_machine_that_cannot_be_saved_is_booted_each_time_and_proved_once(proving: Proving) -> None:
    first, second, larger = proving.start(), proving.start(), proving.start(memory_mib=1024)
    assert [each.keys for each in (first, second, larger)] == ["the run's"] * 3
    assert proving.proved == [first, larger]


def test_a_booted_guest_that_contradicts_its_traits_is_stopped_and_the_next_is_proved(proving: Proving) -> None:
    proving.wrong = ValueError("no such trait")
    with pytest.raises(ValueError, match="no such trait"):
        proving.start()
    assert proving.last.stopped
    proving.wrong = None
    assert proving.proved == []
    assert proving.start() in proving.proved
