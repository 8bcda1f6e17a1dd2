"""Many files are sent in one round trip; each arrives unchanged or is named in the error, and is sent only once."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from harness.core.deadline import Deadline
from harness.core.errors import GuestError
from harness.guest import guest as guest_module
from harness.guest.guest import Guest
from harness.guest.result import Result
from harness.guest.ssh import SshConnection
from harness.guest.upload import HostFileWithMode, put_all
from harness.images.image import Image


class Here:
    """A link to this host that may run another command after each."""

    def __init__(self, then: str = ":") -> None:
        self.then = then
        self.trips = 0

    def run(self, argv: Sequence[str], _deadline: Deadline, stdin: bytes = b"") -> Result:
        self.trips += 1
        script = argv[2].replace("&& sha256sum", f"&& {self.then} && sha256sum")
        done = subprocess.run(["sh", "-c", script], input=stdin, capture_output=True, check=False, timeout=120)
        return Result("here", tuple(argv), done.returncode, done.stdout, done.stderr, 0.0)


@pytest.fixture
def pieces(tmp_path: Path) -> dict[str, HostFileWithMode]:
    (tmp_path / "there").mkdir()
    made = {}
    for name, mode in (("module.ko", 0o644), ("a program", 0o755)):
        (tmp_path / name).write_bytes(name.encode() * 1000)
        made[str(tmp_path / "there" / name)] = HostFileWithMode(tmp_path / name, mode)
    return made


def test_all_arrive_in_one_round_trip(pieces: dict[str, HostFileWithMode]) -> None:
    link = Here()
    put_all(cast(SshConnection, link), pieces, "here", Deadline.after(120))
    assert link.trips == 1
    for path, piece in pieces.items():
        assert Path(path).read_bytes() == piece.file.read_bytes()
        assert Path(path).stat().st_mode & 0o777 == piece.mode


def test_what_arrives_damaged_is_named(pieces: dict[str, HostFileWithMode]) -> None:
    damaged = next(path for path in pieces if path.endswith(".ko"))
    with pytest.raises(GuestError, match=r"arrived damaged: \S+module.ko$"):
        put_all(cast(SshConnection, Here(f"echo >>{damaged}")), pieces, "here", Deadline.after(120))


def test_nothing_to_put_costs_nothing() -> None:
    link = Here()
    put_all(cast(SshConnection, link), {}, "here", Deadline.after(120))
    assert link.trips == 0


class GuestWithFiles(Guest):
    """A guest of an image with three programs, which counts what is sent to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        programs = {name: Path(name) for name in ("tool", "user/program", "user/library.so")}
        self.image = cast(Image, SimpleNamespace(recipe=SimpleNamespace(name="a-vm"), modules={}, programs=programs))
        self.copied_files = {}
        self._link = cast(SshConnection, Here())
        self.sent: list[list[str]] = []
        monkeypatch.setattr(guest_module, "put_all", lambda _, files, *__: self.sent.append([*files]))

    def scaled_deadline(self, seconds: float) -> Deadline:  # type: ignore[override]
        return Deadline.after(seconds)


def test_a_program_of_a_directory_comes_with_its_other_files_once(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = GuestWithFiles(monkeypatch)
    path, again = guest.copy_program("user/program"), guest.copy_program("user/program")
    assert path == again
    assert guest.sent == [[path, path.replace("program", "library.so")], []]
    guest.copy_all_files(Deadline.after(60))
    assert [Path(each).name for each in guest.sent[-1]] == ["tool"]


def test_a_program_that_the_image_lacks_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("absent", "user/absent"):
        with pytest.raises(KeyError):
            GuestWithFiles(monkeypatch).copy_program(name)
