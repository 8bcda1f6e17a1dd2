"""The initramfs has the same bytes for every user that packs it, is owned by root, and has the needed libraries."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.core import paths
from harness.core.errors import BuildError
from harness.images.rootfs import pack
from harness.images.userland_debian import Pruned

Listed = tuple[str, int, int, int, int, bytes]


def listed(archive: Path) -> list[Listed]:
    """Return name, mode, owner, group, time and content of each entry of a newc archive (cpio(5))."""
    content, position, found = archive.read_bytes(), 0, []
    while True:
        assert content[position : position + 6] == b"070701"
        fields = [int(content[position + 6 + 8 * field : position + 14 + 8 * field], 16) for field in range(13)]
        start = position + 110
        name = content[start : start + fields[11] - 1].decode()
        data = (start + fields[11] + 3) & ~3
        if name == "TRAILER!!!":
            return found
        found.append((name, fields[1], fields[2], fields[3], fields[5], content[data : data + fields[6]]))
        position = (data + fields[6] + 3) & ~3


def tree(root: Path, umask: int) -> Path:
    before = os.umask(umask)
    try:
        for name in ("etc", "root", "bin"):
            (root / name).mkdir(parents=True)
        for name in ("init", "bin/busybox", "etc/passwd"):
            (root / name).write_text(f"{name}\n")
        for name in ("init", "bin/busybox"):
            (root / name).chmod(0o777 & ~umask)
        (root / "bin/sh").symlink_to("/bin/busybox")
        (root / "etc/with space\nand line").write_text("odd")
    finally:
        os.umask(before)
    return root


def test_the_archive_is_roots_and_normalized(tmp_path: Path) -> None:
    pack(tree(tmp_path / "root", 0o077), tmp_path / "initrd")
    entries = listed(tmp_path / "initrd")
    assert [(name, oct(mode)) for name, mode, *_ in entries] == [
        (".", "0o40755"),
        ("bin", "0o40755"),
        ("bin/busybox", "0o100755"),
        ("bin/sh", "0o120777"),
        ("etc", "0o40755"),
        ("etc/passwd", "0o100644"),
        ("etc/with space\nand line", "0o100644"),
        ("init", "0o100755"),
        ("root", "0o40700"),
    ]
    assert {(owner, group, time) for _, _, owner, group, time, _ in entries} == {(0, 0, 0)}
    assert {name: content for name, *_, content in entries}["bin/sh"] == b"/bin/busybox"


def test_the_same_tree_is_the_same_bytes(tmp_path: Path) -> None:
    pack(tree(tmp_path / "one", 0o022), tmp_path / "one.cpio")
    pack(tree(tmp_path / "two", 0o077), tmp_path / "two.cpio")
    assert (tmp_path / "one.cpio").read_bytes() == (tmp_path / "two.cpio").read_bytes()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else")
def test_the_same_bytes_for_an_ordinary_user(tmp_path: Path) -> None:
    pack(tree(tmp_path / "one", 0o022), tmp_path / "one.cpio")
    for path in [tmp_path, *tmp_path.parents][:3]:
        path.chmod(0o755)
    other = tree(tmp_path / "two", 0o022)
    for path in [other, *other.rglob("*")]:
        os.chown(path, 12345, 12345, follow_symlinks=False)
    pack(other, tmp_path / "two.cpio")
    assert (tmp_path / "one.cpio").read_bytes() == (tmp_path / "two.cpio").read_bytes()


def test_a_full_disk_is_known_as_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        pack(tree(tmp_path / "root", 0o022), Path("/dev/full"))


def compile_c(source: str, out: Path, *flags: str) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["gcc", "-x", "c", "-o", out, "-", "-x", "none", *flags],
        input=source,
        text=True,
        check=True,
        capture_output=True,
    )
    return out


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """Return the tree of two packages: programs, libraries behind links, and files below share/ with the same names."""
    root = tmp_path / "packages"
    triplet = root / "lib/triplet"
    soname = "-Wl,-soname,libone.so.1"
    library = compile_c("int one(void) { return 1; }", triplet / "libone.so.1.0", "-shared", "-fPIC", soname)
    (triplet / "libone.so.1").symlink_to("libone.so.1.0")
    compile_c("int one(void); int main(void) { return one(); }", root / "usr/sbin/dropbear", str(library))
    compile_c("int main(void) { return 0; }", root / "bin/busybox", "-static")
    shutil.copy(subprocess.check_output(["gcc", "-print-file-name=libc.so.6"], text=True).strip(), triplet)
    loader = interpreter(root / "usr/sbin/dropbear")
    shutil.copy(loader, triplet / loader.name)
    link = root / loader.relative_to("/")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(f"../lib/triplet/{loader.name}")
    (root / "usr/share/hooks").mkdir(parents=True)
    for name in ("busybox", "dropbear"):
        (root / "usr/share/hooks" / name).write_text("not this one")
    return root


def interpreter(program: Path) -> Path:
    reported = subprocess.check_output(["readelf", "-l", program], text=True)
    return Path(reported.partition("interpreter: ")[2].partition("]")[0])


def test_programs_come_with_all_they_load_and_nothing_else(packages: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    libraries = Pruned(packages, kept).copy_programs_and_libraries()
    loader = interpreter(kept / "usr/sbin/dropbear").relative_to("/")
    assert libraries == ["libc.so.6", "libone.so.1"]
    assert not [path for path in kept.rglob("*") if path.is_symlink()]
    assert {"bin/busybox", "usr/sbin/dropbear", "lib/libc.so.6", "lib/libone.so.1", str(loader)} <= {
        str(path.relative_to(kept)) for path in kept.rglob("*") if path.is_file()
    }
    search = ["--library-path", kept / "lib", kept / "usr/sbin/dropbear"]
    assert subprocess.run([kept / loader, *search], check=False).returncode == 1


def test_a_missing_library_is_one_line(packages: Path, tmp_path: Path) -> None:
    (packages / "lib/triplet/libone.so.1").unlink()
    with pytest.raises(BuildError, match=r"no file libone\.so\.1") as caught:
        Pruned(packages, tmp_path / "kept").copy_programs_and_libraries()
    assert "\n" not in str(caught.value)


def test_a_link_that_leads_round_is_one_line(packages: Path, tmp_path: Path) -> None:
    (packages / "lib/triplet/libone.so.1").unlink()
    (packages / "lib/triplet/libone.so.1").symlink_to("libone.so.1")
    with pytest.raises(BuildError, match=r"no file libone\.so\.1"):
        Pruned(packages, tmp_path / "kept").copy_programs_and_libraries()


def test_init_is_a_program_the_shell_can_read() -> None:
    init = paths.RECIPES / "rootfs/init"
    assert init.stat().st_mode & 0o111
    assert subprocess.run(["sh", "-n", init], check=False).returncode == 0


WORD = "ssh-rsa AAAA \\000\\101 1700000000 c2VlZA==\n"


def run_init(tmp_path: Path, failing: str = "") -> list[str]:
    """Run init with stand-ins for its commands, one of which may fail; return what it prints until poweroff."""
    commands = tmp_path / "commands"
    commands.mkdir()
    for name in ("mount", "mkdir", "insmod", "ifconfig", "stty", "date", "dropbear", "poweroff", "sleep"):
        ending = "kill -9 $PPID" if name in ("poweroff", "sleep") else f"exit {int(name == failing)}"
        started = f": >{tmp_path}/run/dropbear.pid\n" if name == "dropbear" else ""
        (commands / name).write_text(f"#!/bin/sh\n{started}{ending}\n")
        (commands / name).chmod(0o755)
    text = (paths.RECIPES / "rootfs/init").read_text()
    script = text.replace("/usr/sbin:/usr/bin:/sbin:/bin", f"{commands}:/usr/bin:/bin", 1)
    script = script.replace("/proc/sys/kernel/kptr_restrict", str(tmp_path / "kptr_restrict"))
    script = re.sub(r"/(?=root/\.ssh|etc/dropbear|tmp/pinpoint|run/dropbear)", f"{tmp_path}/", script)
    # A path that is not replaced would be one of this host.
    assert script.count(str(tmp_path)) == 13
    for name in ("root/.ssh", "etc/dropbear", "run"):
        (tmp_path / name).mkdir(parents=True)
    done = subprocess.run(["sh", "-c", script], input=WORD, stdout=subprocess.PIPE, text=True, timeout=120, check=False)
    return [line.replace(str(tmp_path), "") for line in done.stdout.splitlines()]


def test_init_prints_when_it_begins_and_when_it_is_ready(tmp_path: Path) -> None:
    assert run_init(tmp_path) == ["pinpoint: init", "pinpoint: waiting", "pinpoint: ready"]
    assert (tmp_path / "root/.ssh/authorized_keys").read_text() == "ssh-rsa AAAA pinpoint\n"
    assert (tmp_path / "etc/dropbear/dropbear_ed25519_host_key").read_bytes() == b"\0A"
    assert (tmp_path / "kptr_restrict").read_text() == "0\n"


@pytest.mark.parametrize(
    ("failing", "step"),
    [
        ("mount", "mount -t proc proc /proc"),
        ("mkdir", "mkdir /dev/pts"),
        ("ifconfig", "ifconfig lo 127.0.0.1 up"),
        ("stty", "stty -echo"),
        ("dropbear", "dropbear -E -R -P /run/dropbear.pid"),
    ],
)
def test_init_names_the_step_that_failed(tmp_path: Path, failing: str, step: str) -> None:
    reported = run_init(tmp_path, failing)
    assert (reported[0], reported[-1]) == ("pinpoint: init", f"pinpoint: init failed: {step}")
    assert "pinpoint: ready" not in reported


def test_the_password_of_root_opens_nothing() -> None:
    name, password, *_ = (paths.RECIPES / "rootfs/etc/passwd").read_text().splitlines()[0].split(":")
    assert (name, password) == ("root", "*")
