"""The real launcher works in a project of its own; scripts stand in for packages and privileges."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.core import paths

pytestmark = pytest.mark.slow

CLI = "import sys, json, os; print(json.dumps([sys.argv[1:], sys.prefix, os.getcwd()]))\n"
debian = pytest.mark.skipif(not Path("/etc/debian_version").exists(), reason="the host is not Debian")


@dataclass
class Project:
    """A project with the real launcher, no requirements, and one needed program from a package."""

    root: Path

    @property
    def launcher(self) -> Path:
        return self.root / "pinpoint"

    @property
    def bin(self) -> Path:
        return self.root / "bin"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def script(self, name: str, body: str) -> None:
        """Write a program into a directory of PATH."""
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def start(
        self, *arguments: str, launcher: Path | None = None, cwd: Path | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Start the launcher, by default as a user without privileges."""
        return subprocess.run(
            [launcher or self.launcher, *arguments],
            cwd=cwd or self.root,
            env={
                "PATH": f"{self.bin}:/usr/bin:/bin",
                "HOME": str(self.root),
                "PINPOINT_CACHE": str(self.cache),
                **{name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))},
                **env,
            },
            capture_output=True,
            text=True,
            # Making an environment takes some seconds; a start that hangs does not end.
            timeout=120,
            check=False,
        )

    def recorded(self, name: str) -> str:
        """Return what the scripts recorded."""
        path = self.root / name
        return path.read_text() if path.exists() else ""


def make(root: Path) -> Project:
    project = Project(root)
    project.bin.mkdir(parents=True)
    shutil.copy(paths.PROJECT / "pinpoint", project.launcher)
    (root / "host-packages.txt").write_text(
        "# comment\nneeded-package any needed-program to test\nelsewhere sparc gone x\n"
        "of-core any/arm64 core-program x\nof-full any/s390x,i386 full-program x\n"
        "of-source any/source source-program x\nof-clang any/clang-19 clang-program x\n"
    )
    for name in ("requirements.txt", "requirements-installer.txt"):
        (root / name).write_text("# nothing\n")
    (root / "harness").mkdir()
    (root / "harness" / "__init__.py").touch()
    (root / "harness" / "__main__.py").write_text(CLI)
    (root / "harness" / "core").mkdir()
    core = ("__init__.py", "child_privilege_drop.py", "host_packages.py", "paths.py")
    for name in ("doctor.py", *(f"core/{name}" for name in core)):
        shutil.copy(paths.PROJECT / "harness" / name, root / "harness" / name)
    return project


def add_recipes(project: Project) -> None:
    """Add a core VM of arm64, and three VMs of i386 that are not core: the kernels of two are built from source.

    A tree for --project has one more.
    """
    (project.root / "vm_images").mkdir()
    (project.root / "vm_images" / "small.toml").write_text('arch = "arm64"\n')
    (project.root / "vm_images" / "old.toml").write_text('arch = "i386"\ntier = "full"\nsource = "debian-binary"\n')
    (project.root / "my own" / "vm_images").mkdir(parents=True)
    bugs = 'arch = "arm64"\ntier = "full"\nkernel_mutants = true\nsource = "debian-source"\n'
    (project.root / "vm_images" / "bugs.toml").write_text(bugs)
    (project.root / "my own" / "vm_images" / "theirs.toml").write_text('arch = "i386"\ntier = "full"\n')
    built = 'arch = "i386"\ntier = "full"\nsource = "debian-source"\n'
    (project.root / "vm_images" / "built.toml").write_text(built)
    (project.root / "vm_images" / "clang.toml").write_text(f'{built}compiler = "clang-19"\n')


@pytest.fixture
def bare(tmp_path: Path) -> Project:
    """Return a project whose needed program is missing."""
    return make(tmp_path / "project")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a complete project whose environment was made by two simultaneous starts.

    An earlier start was killed.
    """
    project = make(tmp_path_factory.mktemp("launcher") / "project")
    project.script("needed-program", "true")
    doctor = project.start("doctor")
    environment = Path(next(line for line in doctor.stdout.splitlines() if "not made yet" in line).split("(")[1][:-1])
    environment.mkdir(parents=True)
    (environment / "half").touch()
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: project.start("a b", "--c"), range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert first.stdout == second.stdout
    assert (first.stderr + second.stderr).count("making the Python environment in") == 1
    assert not (environment / "half").exists()
    return project


@pytest.mark.parametrize("umask", ["000", "777"])
def test_only_its_owner_writes_to_the_environment_whatever_the_umask(tmp_path: Path, umask: str) -> None:
    """Others could write a module into it while it is made, if the cache is an existing directory."""
    project = make(tmp_path / "project")
    project.script("needed-program", "true")
    project.script("start", f'umask {umask}; exec "{project.launcher}" "$@"')
    project.cache.mkdir(mode=0o755)
    done = project.start("x", launcher=project.bin / "start")
    assert done.returncode == 0, done.stderr
    paths_made = [path for path in project.cache.rglob("*") if not path.is_symlink()]
    assert len(paths_made) > 100
    modes = {path: path.stat().st_mode for path in paths_made}
    assert [path for path, mode in modes.items() if mode & 0o022 or not mode & 0o400] == []


def test_a_second_start_is_quick_and_prints_nothing(made: Project) -> None:
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        again = made.start("a b", "--c")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # CPU time, because wall time depends on the load of the host.
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
        assert again.stderr == ""
        assert again.stdout.startswith('[["a b", "--c"], ')
    assert min(seconds) < 0.5


def test_it_starts_from_anywhere_and_through_a_link(made: Project, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(made.launcher)
    started = made.start("x", launcher=link, cwd=tmp_path)
    assert started.returncode == 0, started.stderr
    assert str(made.cache) in started.stdout
    assert str(tmp_path) in started.stdout


def test_other_requirements_make_another_environment(made: Project) -> None:
    before = made.start("doctor").stdout
    (made.root / "requirements.txt").write_text("# something else\n")
    try:
        assert "not made yet" in made.start("doctor").stdout
        assert "not made yet" not in before
    finally:
        (made.root / "requirements.txt").write_text("# nothing\n")


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (("run",), "needed-package of-core"),
        (("run", "-k", "old*"), "needed-package of-core"),
        (("run", "--vm", "small"), "needed-package of-core"),
        (("run", "--vm=old"), "needed-package of-full"),
        (("run", "--vm", "small,old"), "needed-package of-core of-full"),
        (("run", "--vm", "built"), "needed-package of-full of-source"),
        (("run", "--vm", "clang"), "needed-package of-full of-source of-clang"),
        (("run", "--vm", "small", "--kernel", "linux"), "needed-package of-core of-source"),
        (("bisect", "--vm", "small"), "needed-package of-core of-source"),
        (("store", "pull", "directory", "--vm", "old"), "needed-package of-full"),
        (("run", "--arch", "arm64"), "needed-package of-core"),
        (("run", "--vm", "bugs"), "needed-package of-core of-source"),
        (("run", "--arch", "i386"), "needed-package of-full of-source of-clang"),
        (("run", "--arch", "i38."), "needed-package of-core"),
        (("run", "--matrix", "full"), "needed-package of-core of-full of-source of-clang"),
        (("run", "--project", "my own", "--vm", "theirs"), "needed-package of-full"),
        (("run", "--project=my own", "--vm=theirs"), "needed-package of-full"),
        (("run", "--vm=theirs"), "needed-package of-core"),
    ],
)
def test_only_the_packages_of_the_guests_asked_for_are_needed(
    bare: Project, arguments: tuple[str, ...], missing: str
) -> None:
    add_recipes(bare)
    refused = bare.start(*arguments, PINPOINT_NO_INSTALL="1")
    assert refused.stderr.rpartition(": ")[2].strip() == missing
    if arguments[0] == "bisect":  # The command itself needs sources.
        return
    listed = bare.start("doctor", *arguments[1:])
    assert listed.returncode == 3
    assert f"Missing, by Debian's names: {missing}\n" in listed.stdout


@pytest.mark.parametrize("target", ["fifo", "/dev/zero"])
@pytest.mark.parametrize("arguments", [("list",), ("run", "--vm", "theirs"), ("run", "--vm", "bad")])
def test_a_recipe_that_is_no_regular_file_is_not_read(bare: Project, target: str, arguments: tuple[str, ...]) -> None:
    add_recipes(bare)
    os.mkfifo(bare.root / "fifo")
    (bare.root / "my own" / "vm_images" / "bad.toml").symlink_to(bare.root / target)
    refused = bare.start(*arguments, "--project", "my own", PINPOINT_NO_INSTALL="1")
    assert (refused.returncode, refused.stderr.count("\n")) == (3, 1)


def test_without_leave_to_install_it_names_the_packages(bare: Project) -> None:
    refused = bare.start("list", PINPOINT_NO_INSTALL="1")
    assert refused.returncode == 3
    assert refused.stderr.splitlines() == [
        "pinpoint: these host packages are missing (by Debian's names): needed-package"
    ]
    assert not bare.cache.exists()


@pytest.mark.parametrize("option", [("--hosts", "lab.toml"), ("--hosts=lab.toml",), ("--scheduler", "tls://a:1")])
def test_hosts_build_and_run_guests_so_the_controller_needs_no_compiler(bare: Project, option: tuple[str, ...]) -> None:
    add_recipes(bare)
    with (bare.root / "host-packages.txt").open("a") as listed:
        listed.write("python3-part any no-python x\n")
    for words in (("run", "--vm", "built", *option), ("run", *option, "--vm", "built")):
        refused = bare.start(*words, PINPOINT_NO_INSTALL="1")
        assert refused.stderr.rpartition(": ")[2].strip() == "python3-part"
    # A kernel of the user's own is built and booted here; only `run` has these options.
    for words in (("run", "--kernel", "linux", *option), ("build", *option)):
        refused = bare.start(*words, "--vm", "small", PINPOINT_NO_INSTALL="1")
        assert "needed-package" in refused.stderr


@pytest.mark.parametrize(("arguments", "helps"), [(["list", "--help"], True), (["run", "--run", "perf -h"], False)])
def test_help_needs_no_package(bare: Project, arguments: list[str], helps: bool) -> None:
    done = bare.start(*arguments, PINPOINT_NO_INSTALL="1")
    assert (done.returncode == 0) is helps
    assert ("needed-package" in done.stderr) is not helps


@pytest.mark.parametrize(("command", "wanted"), [("run", False), ("test", True), ("check", True)])
def test_what_only_the_tests_want_is_installed_for_them_alone(bare: Project, command: str, wanted: bool) -> None:
    with (bare.root / "host-packages.txt").open("a") as packages:
        packages.write("tests-package tests tests-program x\noptional-package optional optional-program x\n")
    done = bare.start(command, PINPOINT_NO_INSTALL="1")
    assert done.returncode == 3
    assert "needed-package" in done.stderr
    assert ("tests-package" in done.stderr) is wanted
    assert "optional-package" not in done.stderr


def test_doctor_works_where_nothing_may_be_installed(bare: Project) -> None:
    reported = bare.start("doctor", PINPOINT_NO_INSTALL="1")
    assert reported.returncode == 3
    assert "MISSING  needed-package" in reported.stdout
    assert "elsewhere" not in reported.stdout
    assert not bare.cache.exists()
    bare.script("needed-program", "true")
    assert bare.start("doctor").returncode == 0


@debian
@pytest.mark.parametrize("kind", ["loop", "dangling", "file", "below a file"])
def test_doctor_reports_a_cache_that_cannot_be_made(bare: Project, kind: str) -> None:
    bare.script("needed-program", "true")
    place = bare.root / "place"
    if kind in ("loop", "dangling"):
        place.symlink_to("place" if kind == "loop" else "nowhere")
    else:
        place.touch()
    cache = place / "cache" if kind == "below a file" else place
    assert bare.start("doctor").returncode == 0
    done = bare.start("doctor", PINPOINT_CACHE=str(cache))
    assert done.returncode == 3
    assert f"The cache cannot be used: {place} is" in done.stdout
    assert "Everything Pinpoint needs" not in done.stdout


def test_a_completion_installs_and_prints_nothing(bare: Project) -> None:
    bare.script("sudo", f"echo sudo >>{bare.root}/calls")
    bare.script("id", "echo 1000")
    done = bare.start(_PINPOINT_COMPLETE="bash_complete", COMP_WORDS="pinpoint r", COMP_CWORD="1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert bare.recorded("calls") == ""
    assert not bare.cache.exists()


def test_without_sudo_it_prints_the_command(bare: Project) -> None:
    for program in ("sh", "dirname", "readlink", "uname", "date"):
        (bare.bin / program).symlink_to(f"/usr/bin/{program}")
    bare.script("id", "echo 1000")
    refused = bare.start("list", PATH=str(bare.bin))
    assert refused.returncode == 3
    assert "apt-get install --yes --no-install-recommends needed-package" in refused.stderr


@debian
@pytest.mark.parametrize(("user", "through"), [("0", ""), ("1000", "sudo")])
def test_it_installs_what_is_missing_as_root_or_through_sudo(bare: Project, user: str, through: str) -> None:
    bare.script("id", f"echo {user}")
    bare.script("sudo", f'echo sudo >>{bare.root}/log; exec "$@"')
    # The first attempt fails as on a machine without package lists.
    bare.script(
        "apt-get",
        f"""echo "$DEBIAN_FRONTEND $*" >>{bare.root}/log
        case $1 in
            update) touch {bare.root}/lists ;;
            install) [ -e {bare.root}/lists ] || exit 100 ;;
        esac
        case $* in *--simulate*) ;; install*) exit 7 ;; esac""",
    )
    failed = bare.start("list")
    assert failed.returncode == 3
    assert failed.stderr.startswith("pinpoint: installing host packages: needed-package\n")
    log = bare.recorded("log").splitlines()
    assert ("sudo" in log) == bool(through)
    calls = [line for line in log if line != "sudo"]
    assert calls[0].endswith("--simulate")
    assert calls[1] == "noninteractive update"
    assert calls[2] == "noninteractive install --yes --no-install-recommends needed-package"
    assert "as root, run: apt-get update && apt-get install" in failed.stderr


def test_a_missing_python_is_reported(bare: Project) -> None:
    bare.script("needed-program", "true")
    text = bare.launcher.read_text().replace("/usr/bin/python3 python3", "no-such-python")
    bare.launcher.write_text(text.replace("python3.1", "no-python3.1"))
    for command in ("list", "doctor"):
        reported = bare.start(command)
        assert reported.returncode == 3
        assert "no Python 3.11 or newer" in reported.stderr
