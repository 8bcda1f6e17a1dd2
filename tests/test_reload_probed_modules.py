"""Probed modules that are removed under a tool: what is loaded by whom, and what of their probes is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest
from test_verify import MODULE, compiled

from harness import cli
from harness.guest.guest import Guest
from harness.guest.result import Result
from harness.landing.landing_judgment import Landing
from harness.landing.site import Site
from harness.landing.verify.judged import JudgedProbe, ProbeVerdict
from harness.landing.verify.watch_and_judge_registrations import Judgement, WatchedGuest
from harness.matrix.verify.plan import ModuleToLoad
from harness.matrix.verify.reload_probed_modules import reload_probed_modules
from harness.matrix.verify.subjects import PINNED, Command, CommandWithModules, Modules, SubjectRefused

STANDING = JudgedProbe("leaf+0x0", "kprobe", ProbeVerdict.LANDED, 0x10, "leaf+0x0 [target]", owner="bpftrace")
GONE = JudgedProbe("target:leaf+0x0", "kprobe", ProbeVerdict.GONE, 0x10, "nothing known")
FREED = replace(GONE, landing=Landing(Site("leaf", 0, "target"), [], 0, hex))


def answer(rc: int, out: bytes, err: bytes) -> Result:
    return Result("vm", (), rc, out, err, 0.0)


@dataclass
class FakeImage:
    drivers: dict[str, Path] = field(default_factory=dict)


@dataclass
class FakeGuest:
    """Answers every script with success, or with what `answers` has for its beginning."""

    answers: dict[str, Result] = field(default_factory=dict)
    scripts: list[str] = field(default_factory=list)
    image: FakeImage = field(default_factory=FakeImage)

    def run_script(self, text: str, *_: object, **__: object) -> Result:
        self.scripts.append(text)
        found = (given for beginning, given in self.answers.items() if text.startswith(beginning))
        return next(found, answer(0, b"1.0 1.0\n", b""))

    def put(self, *_: object) -> None:
        pass

    def copy_program(self, name: str) -> str:
        return f"/tmp/{name}"

    def scaled_deadline(self, _: float) -> None:
        return None


@dataclass
class FakeWatched:
    """Returns the given judgements, one after the other."""

    judgements: list[Judgement]

    def judge(self) -> Judgement:
        return self.judgements.pop(0)


def target(name: str = "target", *, judged: bool = False) -> ModuleToLoad:
    return ModuleToLoad(name, Path(f"{name}.ko"), Path(f"{name}.ko"), ["a=b c"], judged)


def loaded(guest: FakeGuest, *modules: ModuleToLoad) -> Modules:
    found = Modules(cast("Guest", guest), modules, "insmod", None)
    found.loaded_modules = list(modules)
    return found


def removed(guest: FakeGuest, modules: Modules, *judgements: Judgement) -> tuple[list[str], list[str]]:
    watched = cast(WatchedGuest, FakeWatched(list(judgements)))
    outcome = reload_probed_modules(cast("Guest", guest), watched, [STANDING], modules)
    return outcome.notes, outcome.wrongs


def test_a_target_is_removed_loaded_again_and_then_many_times() -> None:
    guest = FakeGuest()
    gone, back = Judgement((FREED,)), Judgement((STANDING, GONE, GONE))
    notes, wrongs = removed(guest, loaded(guest, target()), gone, back, back)
    assert wrongs == []
    assert notes == [
        "after target was removed, the probe on target:leaf+0x0 is gone",
        "after target was loaded again, the probe on leaf+0x0 is landed",
        "after target was loaded again, 2 registrations are listed no more",
        "after 20 more times, the probe on leaf+0x0 is landed",
        "after 20 more times, 2 registrations are listed no more",
    ]
    removal, load, stress = guest.scripts
    assert removal == "rmmod target"
    assert load == "insmod /tmp/pinpoint-verify-target.ko 'a=b c'"
    assert "seq 20" in stress


def test_a_probe_that_stands_in_a_module_that_is_gone_is_wrong() -> None:
    guest = FakeGuest()
    standing = Judgement((STANDING,))
    _, wrongs = removed(guest, loaded(guest, target()), standing, standing, standing)
    assert wrongs == ["after target was removed, the probe on leaf+0x0 is landed"]


def test_text_that_nothing_explains_afterwards_is_wrong() -> None:
    guest = FakeGuest()
    fine = Judgement()
    _, wrongs = removed(guest, loaded(guest, target()), fine, Judgement(unexplained_changes=("f+0x1",)), fine)
    assert wrongs == ["after target was loaded again, text changed where no list has a probe: f+0x1"]


def test_a_target_that_is_held_is_a_note() -> None:
    guest = FakeGuest({"rmmod": answer(1, b"", b"rmmod: target: Resource temporarily unavailable\n")})
    notes, wrongs = removed(guest, loaded(guest, target()))
    assert wrongs == []
    assert "cannot be removed while it is probed" in notes[0]


@pytest.mark.parametrize("modules", [[], [target("other")], [target(judged=True)]])
def test_nothing_to_remove_is_wrong(modules: Sequence[ModuleToLoad]) -> None:
    guest = FakeGuest()
    _, wrongs = removed(guest, loaded(guest, *modules))
    assert "removed nothing" in wrongs[0]
    assert guest.scripts == []


def test_the_pinned_loader_gets_the_modules_that_are_probed(tmp_path: Path) -> None:
    """Its file has kprobes in vfs_read and in ext4: the first is the kernel's, the second is loaded or is no target."""
    file = compiled(tmp_path, MODULE)
    probe = ModuleToLoad("my_probe", file, file)
    guest = FakeGuest(image=FakeImage({"ext4": Path("ext4.ko")}))
    first = ModuleToLoad("first", file, file, ["a=b c"], judged=False)
    Modules(cast("Guest", guest), [first, probe], PINNED, None).start()
    loads = [text.partition(";")[0] for text in guest.scripts]
    assert loads == [
        "/tmp/pinpoint_loader -n first -t ext4 /tmp/pinpoint-verify-first.ko 'a=b c'",
        "/tmp/pinpoint_loader -n my_probe -t first -t ext4 /tmp/pinpoint-verify-my_probe.ko",
    ]


def test_the_pinned_loaders_last_line_is_the_refusal(tmp_path: Path) -> None:
    failed = b"did open\nfailed load my errno=ESTALE\n1.0 1.0\n"
    guest = FakeGuest({"/tmp/pinpoint_loader": answer(16, failed, b"")})
    file = compiled(tmp_path, MODULE)
    with pytest.raises(SubjectRefused, match="failed load my errno=ESTALE"):
        Modules(cast("Guest", guest), [ModuleToLoad("my_probe", file, file)], PINNED, None).start()


def test_a_loader_that_the_guest_lacks_is_named(tmp_path: Path) -> None:
    guest = FakeGuest({"nosuch": answer(127, b"1.0 1.0\n", b"sh: eval: line 25: nosuch: not found\n")})
    file = compiled(tmp_path, MODULE)
    modules = Modules(cast("Guest", guest), [ModuleToLoad("my_probe", file, file)], "nosuch -f", None)
    with pytest.raises(SubjectRefused) as caught:
        modules.start()
    assert str(caught.value) == "--loader nosuch -f: the guest has no such program; give another command"
    assert modules.refusal_with_explanation(caught.value, []) is caught.value


def test_a_command_whose_modules_were_refused_is_not_ended() -> None:
    guest = FakeGuest({"insmod": answer(1, b"", b"insmod: no\n")})
    modules = Modules(cast("Guest", guest), [target()], "insmod", None)
    subject = CommandWithModules(modules, Command(cast("Guest", guest), "true", None, chroot=False))
    with pytest.raises(SubjectRefused):
        subject.start()
    subject.stop()
    assert len(guest.scripts) == 1


def test_a_removal_needs_a_module(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", "a.ko", "--vm", "parisc", "--remove-targets"]) == 2
    assert "--with FILE.ko" in capsys.readouterr().err
