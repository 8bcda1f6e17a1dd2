"""Many files are sent in one round trip; each arrives unchanged or is named in the error."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from harness.core.deadline import Deadline
from harness.core.errors import GuestError
from harness.guest.result import Result
from harness.guest.ssh import SshConnection
from harness.guest.upload import HostFileWithMode, put_all


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
