"""systemtap scripts: what is refused before a guest is started, and the line about what staprun holds open."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from harness import cli
from harness.core.errors import UsageError
from harness.core.events import Bus
from harness.images import systemtap
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.kernel import ModuleBuildTrees
from harness.images.vm_recipe import Recipe
from harness.matrix.verify import plan, systemtap_run
from harness.matrix.verify.plan import VerifyRequest

SCRIPT = 'probe kprobe.function("vfs_read") { next }'
HELD = [
    "/sys/module/virtio/sections/.gnu.linkonce.this_module",
    "/sys/module/virtio_net/sections/.gnu.linkonce.this_module",
]

TRACE = f"""\
7 openat(AT_FDCWD</>, "/lib/libc.so.6", O_RDONLY) = 3</lib/libc.so.6>
7 init_module(0x7f, 133272, "_stp_bufsize=0") = 0
7 openat(AT_FDCWD</>, "/sys/module", O_RDONLY|O_DIRECTORY) = 4</sys/module>
7 openat(AT_FDCWD</>, "{HELD[0]}", O_RDONLY) = 5<{HELD[0]}>
7 openat(AT_FDCWD</>, "sections/x", O_RDONLY) = 6<{HELD[1]}>
"""


@pytest.fixture
def image(tmp_path: Path) -> Image:
    recipe = Recipe.model_validate(
        {
            "name": "vm",
            "arch": "x86_64",
            "describe": "a test",
            "kernel": {"source": "debian-source", "package": "linux-source"},
        }
    )
    files = (tmp_path / "vmlinux",) * 3
    return Image(
        recipe, "key", *files, {}, "6.1.0", "", {"CONFIG_RELAY": "y"}, {}, headers=ModuleBuildTrees(tmp_path, tmp_path)
    )


def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BuildContext:
    monkeypatch.setenv("PINPOINT_CACHE", str(tmp_path / "cache"))
    return BuildContext.in_cache(Bus())


def test_a_kernel_without_relay_files_is_refused(image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = VerifyRequest(script=SCRIPT)
    with pytest.raises(UsageError, match="needs CONFIG_RELAY=y"):
        plan.compile_systemtap_script(wanted, replace(image, config={}), context(tmp_path, monkeypatch), tmp_path)


@pytest.mark.parametrize(("function", "refused"), [("uprobe_unregister", False), ("uprobe_unregister_sync", True)])
def test_a_kernel_that_stap_does_not_know_is_refused(
    image: Image, tmp_path: Path, function: str, refused: bool
) -> None:
    """As 6.12: staprun cannot resolve what the runtime needs."""
    (tmp_path / "k.s").write_text(f".globl {function}\n.type {function}, @function\n{function}: ret\n")
    made = tmp_path / function
    subprocess.run(["gcc", "-nostdlib", "-static", f"-Wl,-e,{function}", "-o", made, tmp_path / "k.s"], check=True)
    kernel = replace(image, vmlinux=made, config={"CONFIG_RELAY": "y", "CONFIG_UPROBES": "y"})
    assert ("since 6.12" in systemtap.reason_not_to_compile(kernel)) is refused
    assert not systemtap.reason_not_to_compile(replace(kernel, config={"CONFIG_RELAY": "y"}))


def test_a_script_that_cannot_be_read_is_refused(image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "binary.stp").write_bytes(b"\xff\xfe\x00")
    for name, reason in (("absent.stp", "No such file"), ("binary.stp", "it is no text")):
        wanted = VerifyRequest(script=str(tmp_path / name))
        with pytest.raises(UsageError, match=reason):
            plan.compile_systemtap_script(wanted, image, context(tmp_path, monkeypatch), tmp_path)


def test_the_runtimes_warnings_are_no_errors(image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe's own options come first."""
    words: list[str] = []
    monkeypatch.setattr(systemtap, "run_logged", lambda command, *_, **__: words.extend(map(str, command)))
    kernel = image.recipe.kernel.model_copy(update={"cflags": "-ffunction-sections"})
    for recipe in (image.recipe, image.recipe.model_copy(update={"kernel": kernel})):
        compiler = systemtap._Compiler(replace(image, recipe=recipe), tmp_path, tmp_path)
        compiler.run(tmp_path, tmp_path, "stap_x", tmp_path / "log")
    assert [word for word in words if word.startswith("KCFLAGS=")] == [
        "KCFLAGS=-Wno-error=stringop-overread",
        "KCFLAGS=-ffunction-sections -Wno-error=stringop-overread",
    ]


def test_without_a_script_nothing_is_compiled(image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plan.compile_systemtap_script(VerifyRequest(), image, context(tmp_path, monkeypatch), tmp_path) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--stap", SCRIPT, "--run", "true"), "--run and --stap together"),
        (("my.ko", "--stap", SCRIPT), "modules and --stap together"),
    ],
)
def test_a_script_stands_alone(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", "--vm", "x86_64-debian", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_modules_name_is_one_that_the_kernel_takes() -> None:
    assert systemtap.module_name("my-script 2") == "stap_my_script_2"
    assert len(systemtap.module_name("x" * 200)) <= 55


def test_held_files_are_named_with_the_modules_that_they_pin() -> None:
    held = systemtap_run.parse_held_files_from_strace(TRACE)
    assert held.paths == tuple(HELD)
    line = held.describe([])
    assert line.startswith("staprun holds open sections/.gnu.linkonce.this_module of 2 modules (virtio, virtio_net)")
    assert "0 of them when it loads its own" in line
    assert "pins no module" in line
    assert "they pin virtio_net" in held.describe(["virtio_net"])


def test_a_file_that_was_closed_is_not_open_at_once_with_the_next() -> None:
    second = '7 openat(AT_FDCWD</>, "sections/x"'
    closed = TRACE.replace(second, f"7 close(5<{HELD[0]}>) = 0\n{second}")
    assert systemtap_run.parse_held_files_from_strace(closed).paths == (HELD[0],)


def test_files_open_when_staprun_loads_are_counted() -> None:
    before = "\n".join(sorted(TRACE.splitlines(), key=lambda line: "init_module" in line))
    assert "2 of them when it loads its own" in systemtap_run.parse_held_files_from_strace(before).describe([])


def test_a_load_that_was_not_seen_is_reported() -> None:
    assert "not known" in systemtap_run.parse_held_files_from_strace("").describe([])


LOG = """\
WARNING: Probe 'module' has been elided: keyword at script.stp:1:79
 source: probe module("virtio_net").function("start_xmit") { }
semantic error: while resolving probe point: identifier 'kernel' at script.stp:2:7
        source: probe kernel.function("vfs_read") { n += $count }
semantic error: missing x86_64 kernel/module debuginfo [man warning::debuginfo] under '/tree'
Pass 2: analysis failed.  [man error::pass2]
"""


def test_an_error_is_shown_with_its_cause_and_a_warning_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(LOG)
    first = LOG.splitlines()[2]
    shown = systemtap._explained(first, log)
    assert shown.startswith(f"{first}: missing x86_64 kernel/module debuginfo")
    assert "--debug-symbols" in systemtap._mend(shown, log)
    assert "the fragment debug-info" in systemtap._mend(shown, log)
    assert "the whole log" in systemtap._mend("parse error: expected identifier", log)
    assert systemtap._warnings(log) == ("Probe 'module' has been elided: keyword at script.stp:1:79",)


def test_debug_symbols_are_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", "--vm", "x86_64-debian", "--debug-symbols", "--run", "true"]) == 2
    assert "--debug-symbols without --stap" in capsys.readouterr().err
