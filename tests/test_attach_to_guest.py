"""Interactive use of a guest: its output is filtered, the shell behaves like a shell, gdb gets the right commands."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness import cli, cli_shell_and_repro
from harness.core import paths
from harness.core.architecture_table import ARCHITECTURES
from harness.core.errors import HostError
from harness.guest import run_gdb_on_guest
from harness.guest.booted_kernel_check import build_id
from harness.guest.guest import Guest
from harness.guest.run_gdb_on_guest import SymbolFiles
from harness.guest.terminal import Filter
from harness.report import failure_evidence

HARMLESS = b"\x1b[1;31mred\x1b[0m \x1b[2K\x1b[10D\x1b[?25l\x1b[?2004h\tx\x08y\r\n\x07 gr\xc3\xbc\xc3\x9f"
HARMFUL = {
    "retitles": b"\x1b]0;owned\x07",
    "clipboard": b"\x1b]52;c;cm0gLXJmIC8=\x1b\\",
    "queries-the-cursor": b"\x1b[6n",
    "queries-the-title": b"\x1b[21t",
    "device-string": b'\x1bP$q"p\x1b\\',
    "eight-bit": b"\xc2\x9b6n",
    "mouse": b"\x1b[?1000h",
    "reset": b"\x1bc",
    "charset": b"\x1b(0",
    "shift-out": b"\x0e",
    "lines-without-end": b"\x1b[99999999999L",
    "second-number": b"\x1b[1;2147483647H",
    "numbers-without-end": b"\x1b[" + b"1;" * 100 + b"m",
    "private-message": b"\x1b^x\x1b\\",
}


def test_what_line_editing_and_colors_need_is_let_through() -> None:
    assert Filter().feed(HARMLESS) == HARMLESS


@pytest.mark.parametrize("name", HARMFUL)
def test_what_could_use_the_terminal_is_not_however_it_is_cut(name: str) -> None:
    output = b"before " + HARMFUL[name] + b"after"
    wanted = b"before " + (b"6n" if name == "eight-bit" else b"") + b"after"
    assert Filter().feed(output) == wanted
    for cut in range(len(output)):
        halved = Filter()
        assert halved.feed(output[:cut]) + halved.feed(output[cut:]) == wanted
    bytewise = Filter()
    assert b"".join(bytewise.feed(bytes([byte])) for byte in output) == wanted


def test_an_unterminated_sequence_is_not_held_back_endlessly() -> None:
    endless = Filter()
    shown = b"".join(endless.feed(b"\x1b]0;" + b"x" * 1000 if n == 0 else b"x" * 1000) for n in range(20))
    assert len(shown) > 10_000
    assert b"\x1b" not in shown


SHELL = """
import sys
from harness.core.deadline import Deadline
from harness.guest.terminal import interact
from ssh_server import Server, end

def behave(channel, command):
    assert command == "sh", command
    script = b""
    while more := channel.recv(100):
        script += more
    channel.sendall(b"\\x1b]0;owned\\x07ran " + script)
    end(channel, 7)

server = Server()
server.behavior = behave
sys.exit(interact(server.link()))
"""


def test_commands_piped_in_are_run_and_the_status_is_the_shells() -> None:
    tests = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", SHELL],
        input=b"uname -r\n",
        env={**os.environ, "PYTHONPATH": f"{paths.PROJECT}:{tests}"},
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout) == (7, b"ran uname -r\n"), done.stderr.decode()


FLOODED = """
import sys
from harness.guest.terminal import interact
from ssh_server import Server, end

def behave(channel, command):
    for _ in range(128):
        channel.sendall(b"x" * 65536)
    read = 0
    while more := channel.recv(65536):
        read += len(more)
    channel.sendall(str(read).encode())
    end(channel, 0)

server = Server()
server.behavior = behave
sys.exit(interact(server.link()))
"""


def test_a_shell_that_writes_before_it_reads_is_read() -> None:
    """It reads its input only after its output, of which each is more than the channel's window, has been read."""
    done = subprocess.run(
        [sys.executable, "-c", FLOODED],
        input=b"y" * (8 << 20),
        env={**os.environ, "PYTHONPATH": f"{paths.PROJECT}:{Path(__file__).parent}"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.lstrip(b"x")) == (0, b"%d" % (8 << 20)), done.stderr.decode()


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """Return an object file with code, data and a build-id, like a module."""
    source, made = tmp_path / "it.c", tmp_path / "it.ko"
    source.write_text("int counter = 1; int leaf(int x) { return x + counter; }\n")
    subprocess.run(["gcc", "-c", "-g", "-o", made.with_suffix(".o"), source], check=True)
    subprocess.run(["ld", "-r", "--build-id=sha1", "-o", made, made.with_suffix(".o")], check=True)
    return made


@pytest.mark.skipif(not run_gdb_on_guest.shutil.which("gdb"), reason="gdb is not installed")
def test_gdb_finds_each_symbol_where_this_guest_has_it(module: Path, tmp_path: Path) -> None:
    vmlinux = tmp_path / "vm linux"
    (tmp_path / "k.c").write_text("void _start(void) {}\n")
    flags = ["-nostdlib", "-static", "-Wl,-Ttext=0x400000", "-Wl,--build-id=none"]
    subprocess.run(["gcc", *flags, "-o", vmlinux, tmp_path / "k.c"], check=True)
    sections = {".text": 0x7000_0000, ".data": 0x7100_0000, ".symtab": 0x7200_0000, ".gone": 0x7300_0000}
    symbols = SymbolFiles(vmlinux, 0x1000_0000, {module: sections})
    commands = [*symbols.gdb_commands(), "info address leaf", "info address counter", "info address _start"]
    words = [word for command in commands for word in ("-ex", command)]
    done = subprocess.run(["gdb", "-nx", "-batch", *words], capture_output=True, text=True, check=True)
    assert 'leaf" is a function at address 0x70000000' in done.stdout.replace("Symbol ", "")
    assert "0x71000000" in done.stdout
    assert "0x10400000" in done.stdout
    assert "warning" not in done.stdout + done.stderr


def test_gdb_for_a_foreign_architecture_is_the_one_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "gdb").touch(0o755)
    assert run_gdb_on_guest.find_gdb(ARCHITECTURES["x86_64"]) == "gdb"
    with pytest.raises(HostError, match="no gdb for parisc is installed; install the package gdb-multiarch"):
        run_gdb_on_guest.find_gdb(ARCHITECTURES["parisc"])
    (tmp_path / "gdb-multiarch").touch(0o755)
    assert {run_gdb_on_guest.find_gdb(each) for each in ARCHITECTURES.values()} == {"gdb-multiarch"}


def test_the_build_id_identifies_the_loaded_one_of_two_builds(module: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.ko"
    subprocess.run(["ld", "-r", "--build-id=0x0102", "-o", other, module.with_suffix(".o")], check=True)
    notes = subprocess.run(
        ["objcopy", "-O", "binary", "--only-section=.note.gnu.build-id", module, "/dev/stdout"],
        capture_output=True,
        check=True,
    ).stdout
    assert build_id(notes)
    guest = SimpleNamespace(
        image=SimpleNamespace(all_modules={"other/it": other, "it": module, "else": module}),
        run=lambda *words: SimpleNamespace(out=notes if words[1].startswith("/sys/module/it/") else b""),
    )
    listing = "it/sections/.text:0x7000\nit/sections/.init.text:0x9000\nvirtio_net/sections/.text:0x100\nodd line\n"
    assert failure_evidence.sections_by_module_file(cast(Guest, guest), listing) == {
        module: {".text": 0x7000, ".init.text": 0x9000}
    }


def test_paths_with_blanks_stay_one_word_for_gdb() -> None:
    (line,) = SymbolFiles(Path("/a b/vmlinux"), 0, {}).gdb_commands()
    assert shlex.split(line) == ["add-symbol-file", "/a b/vmlinux", "-o", "0x0"]


@pytest.mark.parametrize(
    ("frozen", "options", "how"), [(True, [], "thaw"), (True, ["--anew"], "boot"), (False, [], "boot")]
)
def test_a_shells_guest_is_thawed_where_it_can_be_and_not_unwanted(
    frozen: bool, options: list[str], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def begin(name: str) -> Callable[..., Any]:
        return lambda *_: begun.append(name) or contextlib.nullcontext()

    for name in ("thaw", "boot"):
        monkeypatch.setattr(cli_shell_and_repro.start, name, begin(name))
    monkeypatch.setattr(cli_shell_and_repro, "prepare", lambda recipe, _: SimpleNamespace(recipe=recipe))
    monkeypatch.setattr(cli_shell_and_repro.start, "choose", lambda *_: None)
    monkeypatch.setattr(
        cli_shell_and_repro.Freezer, "find_frozen_state_file", lambda *_: Path("state") if frozen else None
    )
    monkeypatch.setattr(cli_shell_and_repro.attach_shell_or_gdb, "attach", lambda *_: 7)
    assert cli.main(["shell", "--vm", "parisc", *options]) == 7
    assert begun == [how]
