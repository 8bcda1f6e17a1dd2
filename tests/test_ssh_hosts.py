"""Rows run on hosts that ssh reaches (--hosts): OpenSSH's server here, and caches that stand in for hosts."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from broken_runs import BrokenRun, environment
from sshd_here import SshdHere
from test_hosts import CASE, CASES, NO_IMAGES, VMS, cells_of_last_run, ended, wait_for_cells
from test_matrix import CONFTEST

from harness.core.errors import HostError
from harness.images.vm_recipe import KERNEL_VARIABLES, Kernel, replace_in_this_run, select
from harness.matrix.hosts import dask_packages, ssh_worker

_LISTEN = "0A"


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshdHere]:
    made = SshdHere(tmp_path_factory.mktemp("sshd"))
    try:
        yield made
    finally:
        made.stop()


def start(
    sshd: SshdHere, directory: Path, hosts: Path, case: str = CASE, *arguments: str, path: str = ""
) -> subprocess.Popen[str]:
    """Start a run on hosts; `path` replaces the PATH of the controller."""
    directory.mkdir(exist_ok=True)
    (directory / "conftest.py").write_text(CONFTEST + NO_IMAGES)
    (directory / "test_case.py").write_text(case)
    (directory / "pytest.ini").touch()
    place = dask_packages.make_importable()
    variables = environment(directory)
    variables["PYTHONPATH"] = os.pathsep.join([variables["PYTHONPATH"], *([str(place)] if place else [])])
    variables["PATH"] = f"{sshd.path}:{path or variables['PATH']}"
    options = [f"--pinpoint-hosts={hosts}", *(f"--vm={vm}" for vm in VMS)]
    words = ["-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(directory), *options, *arguments]
    return subprocess.Popen(
        [sys.executable, *words, str(directory)],
        cwd=directory,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_rows_run_on_both_hosts_and_nothing_is_left(sshd: SshdHere, tmp_path: Path) -> None:
    case = """
from harness.core import paths
from harness.plugin import RUN

def test_where(guest, vm, request):
    import time
    time.sleep(4)
    run = request.config.stash[RUN]
    (run.directory.path / "console" / f"{vm}.log").write_text(str(paths.cache()))
"""
    run = start(sshd, tmp_path, sshd.hosts_file(), case)
    directories = (tmp_path, *(sshd.directory / name for name in "ab"))
    end, listening = time.monotonic() + 200, set[str]()
    while run.poll() is None and time.monotonic() < end:
        listening |= {
            address for each in directories for pid in BrokenRun(each).processes() for address in addresses(pid)
        }
        time.sleep(0.5)
    status, output = ended(run)
    assert status == 0, output
    latest = (tmp_path / "results" / "latest").resolve()
    caches = {(latest / "console" / f"{vm}.log").read_text() for vm in VMS}
    assert caches == {str(sshd.directory / name / "cache") for name in "ab"}
    # The scheduler, the workers and ssh listened, on loopback interfaces only.
    assert listening <= {"0100007F", "0" * 24 + "01000000"}
    assert listening
    keys = [each for each in tmp_path.rglob("*") if each.is_file() and b"PRIVATE KEY" in each.read_bytes()]
    assert keys == []
    assert [BrokenRun(each).orphaned() for each in directories] == [0, 0, 0]


def addresses(pid: int) -> set[str]:
    """Return the addresses on which a process listens for TCP connections, as /proc/net writes them."""
    inodes = set()
    try:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            inodes.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
        tables = [Path(f"/proc/{pid}/net/{name}").read_text() for name in ("tcp", "tcp6")]
    except OSError:
        return set()
    lines = [line.split() for table in tables for line in table.splitlines()[1:]]
    return {words[1].partition(":")[0] for words in lines if words[3] == _LISTEN and words[9] in inodes}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["ssh", "worker"])
def test_a_host_that_is_lost(sshd: SshdHere, tmp_path: Path, what: str) -> None:
    """The ssh or the worker of host `a` is killed. Its open cell reports it; the other cells run on host `b`."""
    run = start(sshd, tmp_path, sshd.hosts_file())
    wait_for_cells(tmp_path, 2, run)
    os.kill(process_of(*(("-M ", tmp_path) if what == "ssh" else ("-m harness ssh-worker", sshd.directory / "a"))), 9)
    status, output = ended(run)
    cells = cells_of_last_run(tmp_path)
    assert Counter((cell["case"], cell["vm"]) for cell in cells).most_common(1)[0][1] == 1
    assert len(cells) == len(VMS) * CASES
    assert "is gone; what has not begun runs on other hosts" in output
    lost = [cell for cell in cells if cell["verdict"] != "pass"]
    assert len(lost) <= 1
    assert status == (3 if lost else 0), output
    assert not lost or "was on host a, which is gone" in output
    assert BrokenRun(sshd.directory / "a").orphaned() == 0


def process_of(words: str, directory: Path) -> int:
    """Return the process of a run in a directory whose command line has these words; of ssh, that of host `a`."""
    for process in BrokenRun(directory).processes():
        line = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        if words in line and (words != "-M " or " -- a " in line):
            return process
    raise AssertionError(f"no process {words!r}")


@pytest.mark.slow
def test_a_controller_that_is_gone_ends_everything(sshd: SshdHere, tmp_path: Path) -> None:
    run = start(sshd, tmp_path, sshd.hosts_file(), "import time\ndef test_a(guest): time.sleep(1000)\n")
    end = time.monotonic() + 200
    while len([True for name in "ab" for _ in (sshd.directory / name / "cache").glob("shards/*/*")]) < len(VMS):
        assert run.poll() is None
        assert time.monotonic() < end
        time.sleep(0.2)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert [BrokenRun(each).orphaned() for each in (tmp_path, sshd.directory / "a", sshd.directory / "b")] == [0, 0, 0]


@pytest.mark.slow
def test_a_host_key_that_changed_stops_the_run(sshd: SshdHere, tmp_path: Path) -> None:
    sshd.know_host("other_key")
    try:
        status, output = ended(start(sshd, tmp_path, sshd.hosts_file()))
    finally:
        sshd.know_host()
    assert status == 3, output
    assert "Host key verification failed" in output
    assert "host a: cannot be used" in output or "host b: cannot be used" in output
    assert not list(tmp_path.glob("results/2*/results.jsonl")) or not cells_of_last_run(tmp_path)


@pytest.mark.slow
def test_a_host_whose_ports_the_network_reaches_stops_the_run(tmp_path: Path) -> None:
    sshd = SshdHere(tmp_path, ("a",), "GatewayPorts yes")
    try:
        status, output = ended(start(sshd, tmp_path / "run", sshd.hosts_file(("a",))))
    finally:
        sshd.stop()
    assert status == 3, output
    assert "host a: cannot be used: pinpoint: its sshd opens forwarded ports to the network" in output


@pytest.mark.slow
def test_a_server_that_forwards_no_ports_stops_the_run(tmp_path: Path) -> None:
    sshd = SshdHere(tmp_path, ("a",), "AllowTcpForwarding no")
    try:
        status, output = ended(start(sshd, tmp_path / "run", sshd.hosts_file(("a",))))
    finally:
        sshd.stop()
    assert status == 3, output
    assert "host a: no port can be forwarded" in output


@pytest.mark.slow
def test_another_version_on_a_host_stops_the_run(sshd: SshdHere, tmp_path: Path) -> None:
    hosts = sshd.hosts_file()
    program = sshd.path / "pinpoint"
    old = "import sys, harness.matrix.hosts.work_on_host as work; work.identity_of_code = lambda: 'old'"
    start_here = "from harness.__main__ import main; sys.exit(main())"
    text = program.read_text().replace("-m harness", f'-c "{old}; {start_here}"')
    program.write_text(text)
    status, output = ended(start(sshd, tmp_path, hosts))
    assert status == 3, output
    assert "has another version of Pinpoint; put the same version there" in output


@pytest.mark.slow
@pytest.mark.parametrize("silent", [False, True])
def test_a_worker_ends_when_the_controller_is_silent(tmp_path: Path, silent: bool) -> None:
    """The connection stays, as if the controller's host had lost its network. The scheduler does not answer."""
    impatient = "import harness.matrix.hosts.ssh_worker as worker; worker._SILENCE_SECONDS = 3.0; worker.run()"
    place = dask_packages.make_importable()
    variables = environment(tmp_path)
    variables["PYTHONPATH"] = os.pathsep.join([variables["PYTHONPATH"], *([str(place)] if place else [])])
    from distributed import Security

    tls = Security.temporary().get_tls_config_for_role("worker")
    with (
        socket.create_server(("127.0.0.1", 0)) as scheduler,
        subprocess.Popen(
            [sys.executable, "-P", "-c", impatient],
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as worker,
    ):
        assert worker.stdin
        assert worker.stdout
        port = int(worker.stdout.readline().decode().removeprefix(ssh_worker.GREETING))
        settings = ssh_worker.WorkerSettings(
            name="a",
            port=port,
            scheduler_port=scheduler.getsockname()[1],
            contact_port=port,
            certificate=tls["cert"],
            key=tls["key"],
            cores=1,
            gib=1,
        )
        worker.stdin.write(settings.model_dump_json().encode() + b"\n")
        worker.stdin.flush()
        if silent:
            assert worker.wait(60) == 0
            return
        for _ in range(20):
            worker.stdin.write(b"\n")
            worker.stdin.flush()
            time.sleep(0.5)
            assert worker.poll() is None
        worker.stdin.close()
        assert worker.wait(60) == 0


@pytest.mark.slow
def test_why_a_host_lacks_an_ability_is_reported(sshd: SshdHere, tmp_path: Path) -> None:
    """One QEMU of the host is broken: its canary fails there, and the cells that no host can run report it."""
    hosts = sshd.hosts_file(("a",))
    broken = tmp_path / "broken" / "qemu-system-x86_64"
    broken.parent.mkdir()
    broken.write_text('#!/bin/sh\ncase $* in *-version*) echo "QEMU emulator version 7.2.1" ;; *) exit 7 ;; esac\n')
    broken.chmod(0o755)
    program = sshd.path / "pinpoint"
    program.write_text(program.read_text().replace("exec env ", f'exec env "PATH={broken.parent}:$PATH" '))
    run = start(sshd, tmp_path, hosts, "def test_it(guest): pass\n", "--accel=tcg")
    status, output = ended(run)
    assert status == 3, output
    verdicts = {cell["vm"]: cell["verdict"] for cell in cells_of_last_run(tmp_path)}
    assert verdicts == {"arm64-debian": "pass", "x86_64-debian": "harness-error"}
    wanted = "no host has qemu-x86_64, 0.5 cores and 1.0 GiB: host a: x86_64: accelerator tcg does not work: "
    assert wanted + "QEMU ended with status 7" in " ".join(output.split()), output


def path_without_compilers(directory: Path) -> Path:
    """Make a directory for PATH with the programs of this host, but no compiler and no make."""
    directory.mkdir()
    for place in ("/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"):
        for program in Path(place).iterdir():
            copy = directory / program.name
            if not re.search(r"gcc(-\d+)?$|^(cc|make)$", program.name) and not copy.is_symlink():
                copy.symlink_to(program)
    return directory


@pytest.mark.slow
def test_without_any_compiler_the_run_is_refused_in_one_line(sshd: SshdHere, tmp_path: Path) -> None:
    """Neither the controller nor its host can build the images, and no store has them."""
    hosts, without = sshd.hosts_file(("a",)), path_without_compilers(tmp_path / "without")
    program = sshd.path / "pinpoint"
    program.write_text(program.read_text().replace("exec env ", f'exec env "PATH={without}" '))
    run = start(sshd, tmp_path / "run", hosts, "def test_it(guest): pass\n", path=str(without))
    status, output = ended(run)
    assert status == 3, output
    wanted = (
        r"(\S+): its image cannot be built: this host lacks [^;]*\bmake\b[^;]*, and no host has build-(arm64|x86_64)"
    )
    assert re.search(wanted + r": host a: missing packages: ", output), output
    assert not list((tmp_path / "run").glob("results/2*/results.jsonl")) or not cells_of_last_run(tmp_path / "run")


MINE = """
from harness.core import paths
from harness.landing.landing_judgment import Missed

def test_mine(guest):
    tree = paths.own_tree()
    assert tree.parent.name.startswith("own-files-"), tree
    assert (tree / "cases" / "data.txt").read_text() == "my data"

def test_mine_fails(guest):
    raise Missed("elsewhere")
"""


@pytest.mark.slow
def test_the_own_tree_goes_to_the_host(sshd: SshdHere, tmp_path: Path) -> None:
    tree = tmp_path / "home" / "tree"
    (tree / "cases").mkdir(parents=True)
    (tree / "cases" / "test_mine.py").write_text(MINE)
    (tree / "cases" / "data.txt").write_text("my data")
    root = tmp_path / "root"
    case = "def test_ours(guest): pass\n"
    options = [f"--project={tree}", str(tree / "cases"), "--junitxml=junit.xml"]
    status, output = ended(start(sshd, root, sshd.hosts_file(("a",)), case, *options))
    assert status == 1, output
    assert Counter((cell["file"], cell["case"], cell["verdict"]) for cell in cells_of_last_run(root)) == {
        ("cases/test_mine.py", "test_mine", "pass"): 2,
        ("cases/test_mine.py", "test_mine_fails", "fail"): 2,
        ("test_case.py", "test_ours", "pass"): 2,
    }
    # What a person reads names the controller's directory.
    readmes = [path.read_text() for path in root.glob("results/2*/bundles/*/*/README.md")]
    assert len(readmes) == 2
    assert all(f"--project {tree}" in text and "own-files-" not in text for text in readmes)
    assert "own-files-" not in (root / "junit.xml").read_text()
    assert not list((sshd.directory / "a" / "cache").glob("store/own-files-*/**/*.pyc"))


GIVEN = """
from harness.images.vm_recipe import kernel_options_of_this_run, select

def test_kernel(guest, vm):
    assert select([vm])[0].kernel.given == ("/nowhere/linux-image.deb",)
    assert kernel_options_of_this_run() == " --kernel=/nowhere/linux-image.deb"
"""


@pytest.mark.slow
def test_the_recipe_of_a_given_kernel_goes_to_the_host(
    sshd: SshdHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No host has the file, so each takes the kernel from its store."""
    given = "/nowhere/linux-image.deb"
    for name in KERNEL_VARIABLES:
        monkeypatch.setenv(name, "")
    recipe = select(["x86_64-debian"])[0]
    kernel = Kernel(source="given", given=(given,))
    replace_in_this_run(recipe.model_copy(update={"kernel": kernel}), [f"--kernel={given}"])
    only = ["-k", "x86_64-debian"]
    status, output = ended(start(sshd, tmp_path, sshd.hosts_file(("a",)), GIVEN, *only))
    assert (status, len(cells_of_last_run(tmp_path))) == (0, 1), output


@pytest.mark.parametrize(("address", "refused"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_a_forwarded_port_must_be_on_the_loopback_interface(address: str, refused: bool) -> None:
    with socket.create_server((address, 0)) as made:
        port = made.getsockname()[1]
        if refused:
            with pytest.raises(HostError, match="opens forwarded ports to the network"):
                ssh_worker.demand_loopback(port)
        else:
            ssh_worker.demand_loopback(port)


@pytest.mark.slow
def test_a_worker_without_a_controller_ends(tmp_path: Path) -> None:
    """It gets no settings, or no scheduler answers: both end it, with its standard input."""
    words = [sys.executable, "-P", "-m", "harness", "ssh-worker"]
    done = subprocess.run(
        words, env=environment(tmp_path), input="", capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 3
    assert done.stdout.startswith(ssh_worker.GREETING)
    assert "the controller sent no settings" in done.stderr
