"""A guest's init reads the provisioning line correctly in its own shell."""

from __future__ import annotations

import base64
import re
import subprocess
import time
from pathlib import Path

from harness.core import paths
from harness.guest import provisioning_line as words
from harness.guest.keys import RunKeys

INIT = paths.RECIPES / "rootfs/init"


def await_provisioning(directory: Path, line: bytes) -> None:
    """Run init's own function with all its files in a directory and programs that only record their arguments."""
    function = re.search(r"^await_provisioning\(\) \{\n.*?^\}", INIT.read_text(), re.S | re.M)
    assert function
    for name in ("root/.ssh", "etc/dropbear", "run", "tmp", "dev"):
        (directory / name).mkdir(parents=True)
    reseed = directory / "tmp/pinpoint_reseed"
    reseed.write_text(f'#!/bin/sh\necho "$@" >{directory}/clock\ncat >{directory}/seed\n')
    reseed.chmod(0o755)
    placed = re.sub(r'(?<=[\s">])/(?=(?:root|etc|run|tmp|dev)/)', f"{directory}/", function[0])
    # A path that was not replaced would be one of this host.
    assert not re.search(r"(?<!\w)/(root|etc|run|tmp|dev)/", placed.replace(str(directory), "here"))
    server = f"dropbear() {{ : >{directory}/run/dropbear.pid; }}"
    script = f'must() {{ "$@"; }}\nstty() {{ :; }}\n{server}\n{placed}\nawait_provisioning\n'
    done = subprocess.run(["sh", "-eu", "-c", script], input=line, capture_output=True, check=True, timeout=120)
    assert done.stdout.decode().splitlines() == [words.WAITING, words.READY], done.stderr


def test_init_takes_the_word_as_it_was_meant(tmp_path: Path) -> None:
    keys = RunKeys.make()
    line = words.format_provisioning_line(keys)
    await_provisioning(tmp_path, line)
    assert (tmp_path / "root/.ssh/authorized_keys").read_text() == f"{keys.authorized_keys_line}\n"
    key = tmp_path / "etc/dropbear/dropbear_ed25519_host_key"
    assert key.read_bytes() == keys.dropbear_host_key
    assert [path.stat().st_mode & 0o777 for path in (key, tmp_path / "root/.ssh/authorized_keys")] == [0o600] * 2
    assert abs(int((tmp_path / "clock").read_text()) - time.time()) < 60
    assert len(base64.b64decode((tmp_path / "seed").read_text())) == 64


def test_a_host_key_of_any_bytes_arrives(tmp_path: Path) -> None:
    keys = RunKeys.make()
    awkward = RunKeys(
        keys.client_key, keys.guest_host_key, bytes(range(256)) + b"%s\\n'\"\n", keys.authorized_keys_line
    )
    await_provisioning(tmp_path, words.format_provisioning_line(awkward))
    assert (tmp_path / "etc/dropbear/dropbear_ed25519_host_key").read_bytes() == awkward.dropbear_host_key


def test_a_word_is_one_line_that_a_terminal_can_hold() -> None:
    line = words.format_provisioning_line(RunKeys.make())
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert len(line) <= words.LONGEST
    assert line.isascii()


def test_no_two_guests_get_the_same_random_numbers() -> None:
    keys = RunKeys.make()
    assert len({words.format_provisioning_line(keys).split()[-1] for _ in range(20)}) == 20
