"""The loader and the holder, built for this host, print the right lines, wait at gates and return the right status.

No module is loaded.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.core import paths
from harness.images.loader_programs import FLAGS, PROGRAMS
from harness.pinning.loader import LoaderExitStatus, LoaderLine, LoaderOrder

pytestmark = pytest.mark.slow

SOON = 60.0
# No host has a module of this name.
ABSENT = "pinpoint_no_such_module"


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("programs")
    for name, sources in PROGRAMS.items():
        files = [paths.PROBES / "loader" / f"{source}.c" for source in sources]
        subprocess.run(["gcc", *FLAGS, "-o", directory / name, *files], check=True)
    return directory


def run(program: Path, *words: str, stdin: str = "") -> tuple[LoaderExitStatus, list[str]]:
    done = subprocess.run([program, *words], input=stdin, capture_output=True, text=True, timeout=SOON, check=False)
    return LoaderExitStatus(done.returncode), done.stdout.splitlines()


def load(
    programs: Path, order: LoaderOrder, *, image: str = "/nowhere/probe.ko", stdin: str = ""
) -> tuple[LoaderExitStatus, list[str]]:
    return run(programs / "pinpoint_loader", *order.command_line_options(), image, *order.parameters, stdin=stdin)


def test_without_an_image_it_is_wrong_use(programs: Path) -> None:
    assert run(programs / "pinpoint_loader") == (LoaderExitStatus.USAGE, [])
    assert run(programs / "pinpoint_loader", "-x", "no-such-mutant", "probe.ko") == (LoaderExitStatus.USAGE, [])


def test_a_missing_target_is_reported_by_name_and_status(programs: Path) -> None:
    status, lines = load(programs, LoaderOrder(targets=[ABSENT]))
    begin, failed = map(LoaderLine.parse, lines)
    assert (status, begin.step, begin.subject) == (LoaderExitStatus.OPEN, "begin", "probe")
    assert failed == LoaderLine("failed", "open", f"{ABSENT}/.gnu.linkonce.this_module", {"errno": "ENOENT"})


def test_the_mutant_that_prints_another_errno(programs: Path) -> None:
    status, lines = load(programs, LoaderOrder(targets=[ABSENT], mutant="wrong-errno"))
    assert (status, LoaderLine.parse(lines[-1]).fields) == (LoaderExitStatus.OPEN, {"errno": "ESRCH"})


def test_a_missing_image(programs: Path) -> None:
    status, lines = load(programs, LoaderOrder(module_name="other"))
    assert (status, lines[-1]) == (LoaderExitStatus.IMAGE, "failed image /nowhere/probe.ko errno=ENOENT")
    assert lines[0].startswith("did begin other pid=")


def test_it_waits_at_a_gate_until_ordered(programs: Path) -> None:
    argv = [
        programs / "pinpoint_loader",
        *LoaderOrder(targets=[ABSENT], gates=["open"]).command_line_options(),
        "probe.ko",
    ]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, bufsize=1) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline().startswith("did begin")
        assert process.stdout.readline() == f"at open {ABSENT}/.gnu.linkonce.this_module\n"
        assert process.poll() is None
        process.stdin.write("go\n")
        assert process.stdout.readline().startswith("failed open")
        assert process.wait(SOON) == LoaderExitStatus.OPEN


@pytest.mark.parametrize(("output", "errno"), [("", "EPIPE"), ("stop\n", "EINVAL"), ("go", "EPIPE")])
def test_at_a_gate_it_takes_nothing_but_go(programs: Path, output: str, errno: str) -> None:
    status, lines = load(programs, LoaderOrder(gates=["image"]), stdin=output)
    assert (status, lines[-1]) == (LoaderExitStatus.GATE, f"failed image /nowhere/probe.ko errno={errno}")


def test_each_gate_takes_one_line(programs: Path, tmp_path: Path) -> None:
    image = tmp_path / "empty.ko"
    image.write_bytes(b"")
    status, lines = load(programs, LoaderOrder(gates=["image", "load"]), image=str(image), stdin="go\n")
    assert (status, lines[-1]) == (LoaderExitStatus.GATE, "failed load empty errno=EPIPE")


def test_the_holder_uses_what_it_holds_twice(programs: Path, tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.write_text("held")
    status, lines = run(programs / "pinpoint_holder", "file", str(held), stdin="go\n")
    assert status == LoaderExitStatus.DONE
    assert [LoaderLine.parse(line).step for line in lines] == ["hold", "again", "again", "close"]
    assert LoaderLine.parse(lines[2]).fields == {"errno": "0"}


@pytest.mark.parametrize(("module", "count"), [("abc", "2"), ("pinpoint_noexit", "0"), ("x" * 64, "2")])
def test_copies_need_room_for_a_number(programs: Path, module: str, count: str) -> None:
    assert run(programs / "pinpoint_holder", "copies", "/nowhere", module, count) == (LoaderExitStatus.USAGE, [])


def test_copies_that_the_kernel_refuses_are_reported_by_name(programs: Path, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.ko"
    garbage.write_bytes(b"no module\n")
    status, lines = run(programs / "pinpoint_holder", "copies", str(garbage), "pinpoint_noexit", "2")
    assert status is LoaderExitStatus.LOAD
    assert lines[0].startswith("failed load pinpoint_noe000 errno=E")


def test_the_holder_reports_what_it_cannot_hold(programs: Path) -> None:
    assert run(programs / "pinpoint_holder", "file", "/nowhere") == (
        LoaderExitStatus.HOLD,
        ["failed hold /nowhere errno=ENOENT"],
    )
    assert run(programs / "pinpoint_holder", "keep", "/nowhere") == (LoaderExitStatus.USAGE, [])
