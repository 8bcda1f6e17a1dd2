"""Programs of another suite are kept with their libraries and started by their loader; no link leads to the host."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import pytest
from debian_repository import Repository, Signer, publish_whole_release
from elftools.elf.elffile import ELFFile

from harness.core.deadline import Deadline
from harness.core.errors import BuildError
from harness.core.events import Bus
from harness.images import debian_suite_host_programs, host_apt_sources
from harness.images.build_context import BuildContext
from harness.images.debian_packages_by_name import Packages
from harness.images.debian_suite_host_programs import WantedSuitePrograms
from harness.images.private_apt import host_debian_architecture
from harness.images.store import Store

pytestmark = pytest.mark.slow

PROGRAM = Path(shutil.which("echo") or "/bin/echo")
HELLO = WantedSuitePrograms(
    suite="bookworm",
    packages=("hello",),
    kept_paths=("usr/bin/hello", "usr/share/hello"),
    launcher_commands={"hello": ("usr/bin/hello", "from", '{files}/usr/share/hello"')},
    host_launchers={"host-true": "true"},
)


def _loader() -> Path:
    with PROGRAM.open("rb") as stream:
        segment = next(ELFFile(stream).iter_segments("PT_INTERP"))
        return Path(segment.get_interp_name())


def _library() -> Path:
    printed = subprocess.run(["ldd", PROGRAM], capture_output=True, text=True, check=True).stdout
    return Path(next(line for line in printed.splitlines() if "libc.so.6" in line).split()[2])


@pytest.fixture
def build_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BuildContext:
    signer = Signer()
    keyring = tmp_path / "archive.gpg"
    keyring.write_bytes(signer.keyring)
    monkeypatch.setattr(host_apt_sources, "KEYRING", keyring)
    repository = Repository(tmp_path / "debian", signer)
    monkeypatch.setenv(host_apt_sources.MIRROR_VARIABLE, repository.uri)
    libraries = {
        f"usr/lib/{_library().name}": _library().read_bytes(),
        f"usr/lib/{_loader().name}": _loader().read_bytes(),
    }
    repository.add("libc", libraries, architecture=host_debian_architecture())
    files: dict[str, str | bytes] = {"usr/bin/hello": PROGRAM.read_bytes(), "usr/share/hello/data": "data"}
    repository.add("hello", files, depends="libc", architecture=host_debian_architecture())
    publish_whole_release(repository)
    bus = Bus()
    return BuildContext(Store(tmp_path / "store", bus), Packages(tmp_path / "apt", bus, ["bookworm"]), bus)


def test_a_program_runs_with_the_libraries_of_its_suite(build_context: BuildContext) -> None:
    entry = debian_suite_host_programs.obtain_launchers(HELLO, build_context, vm="vm")
    launcher = entry.path / debian_suite_host_programs.LAUNCHERS / "hello"
    printed = subprocess.run(
        [launcher, "here"], capture_output=True, text=True, check=True, env={"LD_DEBUG": "libs", "LC_ALL": "C"}
    )
    assert printed.stdout == f"from {launcher.parent}/../root/usr/share/hello here\n"
    assert f"calling init: {launcher.parent}/../lib/libc.so.6" in printed.stderr
    subprocess.run([launcher.with_name("host-true")], check=True)
    assert sorted(path.name for path in (entry.path / "lib").iterdir()) == sorted([_loader().name, "libc.so.6"])


def test_programs_with_launchers_in_place_find_each_other(build_context: BuildContext) -> None:
    in_place = dataclasses.replace(
        HELLO, launcher_commands={"hello": ("usr/bin/hello", '--root={files}"')}, launchers_in_place=True
    )
    entry = debian_suite_host_programs.obtain_launchers(in_place, build_context, vm="vm")
    place = entry.path / "root/usr/bin/hello"
    for started, before in ((place, ""), (entry.path / "bin/hello", f"--root={entry.path}/bin/../root ")):
        printed = subprocess.run(
            [started, "here"], capture_output=True, text=True, check=True, env={"LD_DEBUG": "libs", "LC_ALL": "C"}
        )
        assert printed.stdout == f"{before}here\n"
        assert "/root/usr/bin/../../../lib/libc.so.6" in printed.stderr
    assert place.read_bytes().startswith(b"#!/bin/sh")
    assert (entry.path / "root/usr/share/hello/data").read_text() == "data"


def test_a_library_for_another_machine_is_not_taken(tmp_path: Path) -> None:
    """A cross compiler's packages have a C library for the target, too, under the same name."""
    unpacked, entry = tmp_path / "unpacked", tmp_path / "entry"
    # Whatever the order in which the directories are read, the last one is most likely one of the target's.
    for directory in ("usr/lib", *(f"usr/vax-{number}" for number in range(20))):
        (unpacked / directory).mkdir(parents=True)
        own = directory == "usr/lib"
        (unpacked / directory / "libc.so.6").write_bytes(_library().read_bytes() if own else b"\x7fELF of a VAX")
    shutil.copy(_loader(), unpacked / "usr/lib" / _loader().name)
    (unpacked / "usr/bin").mkdir()
    shutil.copy(PROGRAM, unpacked / "usr/bin/hello")
    tree = debian_suite_host_programs._Tree(unpacked, entry)
    entry.mkdir()
    tree.keep("usr/bin/hello")
    tree.keep_libraries()
    assert (entry / "lib/libc.so.6").read_bytes() == _library().read_bytes()


def test_what_is_not_in_the_packages_is_one_line(build_context: BuildContext) -> None:
    absent = WantedSuitePrograms(
        suite="bookworm", packages=("hello",), kept_paths=("usr/bin/absent",), launcher_commands={}
    )
    with pytest.raises(BuildError, match="no usr/bin/absent in the packages") as caught:
        debian_suite_host_programs.obtain_launchers(absent, build_context, vm="vm")
    assert "\n" not in str(caught.value)


def test_no_link_leads_out_of_the_packages(tmp_path: Path) -> None:
    unpacked = tmp_path / "unpacked"
    (unpacked / "usr/bin").mkdir(parents=True)
    (unpacked / "usr/bin/out").symlink_to("../../../outside")
    (unpacked / "usr/bin/absolute").symlink_to("/usr/bin/real")
    (unpacked / "usr/bin/real").write_text("real")
    (tmp_path / "outside").write_text("of the host")
    tree = debian_suite_host_programs._Tree(unpacked, tmp_path)
    with pytest.raises(BuildError, match="no usr/bin/out in the packages"):
        tree.keep("usr/bin/out")
    tree.keep("usr/bin/absolute")
    assert (tmp_path / "root/usr/bin/absolute").read_text() == "real"


def test_programs_of_a_tree_are_wrapped_where_they_stand(tmp_path: Path, build_context: BuildContext) -> None:
    tree = tmp_path / "tree"
    (tree / "scripts/mod").mkdir(parents=True)
    shutil.copy(PROGRAM, tree / "scripts/mod/hello")
    (tree / "scripts/plain.sh").write_text("#!/bin/sh\n")
    packages = build_context.packages
    assert (
        debian_suite_host_programs.replace_programs_by_launchers(
            tree, "hello", "bookworm", packages, Deadline.after(120)
        )
        == 1
    )
    printed = subprocess.run([tree / "scripts/mod/hello", "a b"], capture_output=True, text=True, check=True)
    assert printed.stdout == "a b\n"
    assert (tree / "scripts/mod/hello").read_text().startswith("#!/bin/sh")
    assert (tree / "scripts/plain.sh").read_text() == "#!/bin/sh\n"
