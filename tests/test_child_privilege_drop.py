"""As root, QEMU and builds of foreign modules run as unprivileged users, who cannot write outside their directory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from fault_guests import HANG, Programs

from harness import doctor
from harness.core import child_privilege_drop, paths, process
from harness.core.deadline import Deadline
from harness.core.errors import UsageError
from harness.core.events import Bus
from harness.guest import save_and_load_state
from harness.guest.accelerator import Accelerator
from harness.guest.qemu_process import QemuProcess
from harness.images import debian_suite_compiler, external_build
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.kernel import ModuleBuildTrees

ROOT = not os.geteuid()
TCG = Accelerator("tcg", "a test")
only_root = pytest.mark.skipif(
    not ROOT or bool(child_privilege_drop.reason_rights_kept()),
    reason=child_privilege_drop.reason_rights_kept() or "this user is not root",
)
SOON = 120.0
# What a kernel's tree does for a module: its top Makefile includes the module's own, which is a program.
KERNEL_MAKEFILE = "modules:\n\t$(MAKE) -C $(M) -f Makefile\n"


def status(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.partition(":")[0]: line.partition(":")[2].split() for line in lines}


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Yield a directory that only root may enter, as /root is."""
    private = tmp_path / "private"
    private.mkdir(0o700)
    before = os.umask(0o077)  # As the command line sets it.
    child_privilege_drop.reason_rights_kept.cache_clear()
    allowed = ROOT and not subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode
    assert not (allowed and child_privilege_drop.reason_rights_kept())
    if ROOT and child_privilege_drop.reason_rights_kept():
        pytest.skip(child_privilege_drop.reason_rights_kept())
    yield private
    os.umask(before)


@pytest.fixture
def emulator(directory: Path) -> Iterator[QemuProcess]:
    image = Programs(directory).image("arm64-debian", HANG)
    (directory / "secret").write_text("secret")
    made = QemuProcess(image, console_log=directory / "console", accelerator=TCG, deadline=Deadline.after(SOON))
    yield made
    made.stop()


@only_root
@pytest.mark.skipif(not shutil.which("qemu-system-aarch64"), reason="no QEMU")
def test_qemu_runs_as_another_user(emulator: QemuProcess, directory: Path) -> None:
    found = status(emulator.pid)
    assert set(found["Uid"]) == {str(child_privilege_drop.QEMU_USER)}
    assert set(found["Gid"]) == {str(child_privilege_drop.GROUP)}
    assert found["Groups"] == []
    assert found["NoNewPrivs"] == ["1"]
    assert {int(found[name][0], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {0}
    environ = Path(f"/proc/{emulator.pid}/environ").read_bytes().split(b"\0")
    assert {word.partition(b"=")[0].decode() for word in environ if word} <= {*child_privilege_drop._INHERITED, "HOME"}
    # In its view of the host, the private directory has the two files that it reads and nothing else.
    seen = Path(f"/proc/{emulator.pid}/root") / directory.relative_to("/")
    assert sorted(path.name for path in seen.iterdir()) == ["arm64-debian.kernel", "initrd"]
    assert sorted(path.name for path in directory.iterdir()) == ["arm64-debian.kernel", "console", "initrd", "secret"]


@pytest.mark.skipif(not shutil.which("qemu-system-aarch64"), reason="no QEMU")
def test_a_guest_is_frozen_and_thawed(emulator: QemuProcess, directory: Path) -> None:
    save_and_load_state.save_guest_state(emulator.monitor, directory / "state", Deadline.after(SOON))
    assert (directory / "state").stat().st_mode & 0o777 == 0o600
    image = Programs(directory).image("arm64-debian", HANG)
    thawed = QemuProcess(
        image,
        console_log=directory / "console",
        accelerator=TCG,
        deadline=Deadline.after(SOON),
        frozen=directory / "state",
    )
    try:
        assert thawed.monitor.execute("query-status")["status"] == "running"
        assert (
            not ROOT
            or child_privilege_drop.reason_rights_kept()
            or set(status(thawed.pid)["Uid"]) == {str(child_privilege_drop.QEMU_USER)}
        )
    finally:
        thawed.stop()


@only_root
def test_the_child_dies_with_its_parent() -> None:
    code = (
        "import sys, time; from harness.core import child_privilege_drop, process\n"
        "rights = child_privilege_drop.grant_restricted_rights([])\n"
        "print(process.spawn(['sleep', '60'], rights=rights).pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=paths.PROJECT)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    descriptor = os.pidfd_open(child)
    parent.kill()
    parent.communicate()
    deadline = Deadline.after(SOON)
    while Path(f"/proc/{child}").exists() and status(child)["State"][0] != "Z":
        deadline.require_time_left("the child's end")
    os.close(descriptor)


@pytest.fixture
def kernel(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Image:
    """Return an image whose tree for module builds, in a private directory, runs the module's own Makefile."""
    monkeypatch.setenv("PINPOINT_CACHE", str(directory / "cache"))
    entry = directory / "cache" / "store" / "kernel-1"
    tree, real = entry / "tree", entry / "elsewhere"
    tree.mkdir(parents=True)
    real.mkdir()
    # Debian's headers consist of links to other packages too.
    (real / "Makefile").write_text(KERNEL_MAKEFILE)
    (tree / "Makefile").symlink_to("../elsewhere/Makefile")
    image = Programs(directory).image("a-vm", HANG, "x86_64")
    return Image(**{**vars(image), "headers": ModuleBuildTrees(tree, tree)})


def build(image: Image, directory: Path, recipe: str) -> list[Path]:
    source = directory / "foreign"
    source.mkdir(exist_ok=True)
    lines = "".join(f"\t{line}\n" for line in recipe.splitlines())
    (source / "Makefile").write_text(f"modules:\n{lines}")
    into = directory / "into"
    into.mkdir(exist_ok=True)
    return external_build.build(source, image, BuildContext.in_cache(Bus()), into)


@only_root
def test_a_makefile_writes_only_its_directory(kernel: Image, directory: Path) -> None:
    (directory / "secret").write_text("secret")
    open_to_all = directory.parent / "open"
    open_to_all.mkdir()
    recipe = f"""\
id -u >it.ko
(umask; cat {directory}/secret; ls {directory}; cat /etc/shadow) >log.ko 2>/dev/null || true
! touch {directory}/written {open_to_all}/written {kernel.headers.source}/written /etc/written /root/written
sleep 100017 & setsid sleep 100018 >/dev/null 2>&1 &
cat /proc/self/status >status.ko"""
    built = {path.name: path.read_text() for path in build(kernel, directory, recipe)}
    assert built["it.ko"] == f"{child_privilege_drop.BUILD_USER}\n"
    assert "secret" not in built["log.ko"]
    assert "root:" not in built["log.ko"]
    assert re.search(r"NoNewPrivs:\s1", built["status.ko"])
    found = [*directory.parent.rglob("written"), Path("/etc/written"), Path("/root/written")]
    assert [path for path in found if path.exists()] == []
    # Nothing that it started outlives it.
    assert [pid for pid in running() if b"sleep\x0010001" in command_line(pid)] == []


FORKS = """
import os
count = 0
try:
    while count < 200:
        if not os.fork():
            os.execlp("sleep", "sleep", "100020")
        count += 1
except OSError:
    pass
with open("count.ko", "w") as out:
    out.write(str(count))
"""


@only_root
def test_a_build_cannot_use_up_process_numbers_or_write_a_file_without_end(
    kernel: Image, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_privilege_drop, "_MOST_PROCESSES_OF_BUILDS", 50)
    monkeypatch.setattr(child_privilege_drop, "_LONGEST_FILE_OF_BUILDS", 1 << 20)
    recipe = """\
head -c 8M /dev/zero >big || true
stat -c %s big >it.ko
/usr/bin/python3 forks.py"""
    (directory / "foreign").mkdir()
    (directory / "foreign" / "forks.py").write_text(FORKS)
    built = {path.name: path.read_text() for path in build(kernel, directory, recipe)}
    assert int(built["it.ko"]) == 1 << 20
    assert int(built["count.ko"]) < 50
    # The limit does not stop what kills them.
    assert [pid for pid in running() if b"sleep\x00100020" in command_line(pid)] == []


def running() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def command_line(pid: int) -> bytes:
    """Return the words of a process, empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("left", ["ln -s /etc/passwd it.ko", "mkfifo it.ko", "mkdir it.ko"])
def test_what_a_build_leaves_is_no_link_and_no_device(kernel: Image, directory: Path, left: str) -> None:
    with pytest.raises(UsageError, match=r"builds it.ko, which"):
        build(kernel, directory, left)


def test_it_is_built_by_the_compiler_of_the_recipe(
    kernel: Image, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = directory / "cache" / "store" / "compiler-1" / "gcc-14"
    compiler.parent.mkdir()
    compiler.write_text("#!/bin/sh\necho gcc of another suite\n")
    compiler.chmod(0o755)
    monkeypatch.setattr(debian_suite_compiler, "obtain_compiler", lambda *_: compiler)
    (built,) = build(kernel, directory, "$(CC) >it.ko")
    assert built.read_text() == "gcc of another suite\n"


@only_root
def test_a_read_only_source_is_built(kernel: Image, directory: Path) -> None:
    source = directory / "foreign"
    source.mkdir()
    (source / "Makefile").write_text("modules:\n\tid -u >it.ko\n")
    (source / "Makefile").chmod(0o444)
    source.chmod(0o555)
    into = directory / "into"
    into.mkdir()
    (built,) = external_build.build(source, kernel, BuildContext.in_cache(Bus()), into)
    assert built.read_text() == f"{child_privilege_drop.BUILD_USER}\n"


@only_root
def test_a_directory_replaced_by_a_link(kernel: Image, directory: Path) -> None:
    other = directory.parent / "other"
    other.mkdir()
    (other / "it.ko").write_text("root's")
    with pytest.raises(UsageError, match=r"builds no module|no file of the build"):
        build(kernel, directory, f"ln -s {other} sub")


@only_root
def test_a_link_of_the_source_is_read_with_the_builders_rights(kernel: Image, directory: Path) -> None:
    (directory / "secret").write_text("secret")
    source = directory / "foreign"
    source.mkdir()
    (source / "link").symlink_to("../secret")
    built = build(kernel, directory, "cat link >it.ko 2>/dev/null || echo refused >it.ko")
    assert built[0].read_text() == "refused\n"


def test_the_switch_keeps_roots_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(child_privilege_drop.KEEP_ROOT, "1")
    child_privilege_drop.reason_rights_kept.cache_clear()
    try:
        assert child_privilege_drop.grant_restricted_rights([]) is None
        if ROOT:
            assert child_privilege_drop.describe_child_rights().startswith("ROOT'S: PINPOINT_KEEP_ROOT is set")
            assert any("ROOT'S: " in line for line in doctor._facts())
    finally:
        monkeypatch.undo()
        child_privilege_drop.reason_rights_kept.cache_clear()


@only_root
def test_doctor_shows_the_users() -> None:
    line = next(line for line in doctor._facts() if line.startswith("rights of QEMU"))
    assert str(child_privilege_drop.QEMU_USER) in line
    assert str(child_privilege_drop.BUILD_USER) in line


@only_root
@pytest.mark.parametrize(("mode", "group", "groups"), [(0o660, 108, (108,)), (0o600, 108, ()), (0o660, 0, ())])
def test_the_group_of_a_device(tmp_path: Path, mode: int, group: int, groups: tuple[int, ...]) -> None:
    device = tmp_path / "kvm"
    device.touch()
    os.chown(device, 0, group)
    device.chmod(mode)
    assert child_privilege_drop.device_groups(device) == groups
    assert child_privilege_drop.qemu_may_open(device) == bool(groups)


@only_root
def test_rights_that_cannot_be_taken_are_one_line() -> None:
    given = SimpleNamespace(enter=lambda _: os.setgroups([-1]), environment=lambda added: dict(added))
    with pytest.raises(process.HostError, match="could not be started with fewer rights"):
        process.spawn(["true"], rights=given)  # type: ignore[arg-type]
