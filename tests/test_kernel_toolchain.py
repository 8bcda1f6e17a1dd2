"""A kernel whose recipe names clang is built by LLVM's programs, and so are its modules; user programs stay gcc's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from harness.core import process
from harness.core.architecture_table import ARCHITECTURES
from harness.core.deadline import Deadline
from harness.core.events import Bus, ProgressStep
from harness.images import debian_suite_compiler, kbuild, kernel_toolchain
from harness.images.build_context import BuildContext
from harness.images.kbuild import MakeProgress
from harness.images.vm_recipe import Recipe


def recipe(compiler: str, **kernel: object) -> Recipe:
    source = {"source": "debian-source", "package": "linux-source-6.1", "compiler": compiler, **kernel}
    return Recipe.model_validate({"name": "x", "arch": "x86_64", "describe": "a test", "kernel": source})


@pytest.mark.parametrize("suffix", ["-19", "-16"])
def test_clang_gives_make_the_suffix_of_llvm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suffix: str) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(kbuild, "run_logged", lambda argv, *_, **__: ran.append([str(word) for word in argv]))
    architecture = recipe(f"clang{suffix}").architecture
    make = kernel_toolchain.Make(architecture, tmp_path, tmp_path / "objects", tmp_path / "log")
    make.run(
        ["modules"], MakeProgress(ProgressStep(Bus(), "x", "kernel")), deadline=Deadline.after(1), variables={"M": "m"}
    )
    assert f"LLVM={suffix}" in ran[0]
    assert next(word for word in ran[0] if word.startswith("CC=")).endswith(f"clang{suffix}")
    assert {"M=m", "KBUILD_BUILD_USER=pinpoint"} <= set(ran[0])
    assert make.compiler == f"clang{suffix}"
    assert f"LLVM={suffix}" in kernel_toolchain.make_words(architecture)


def test_without_clang_make_is_called_as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran: list[Mapping[str, Any]] = []
    monkeypatch.setattr(kbuild, "run_logged", lambda argv, *_, **__: ran.append({"argv": argv}))
    row = ARCHITECTURES["x86_64"]
    assert recipe("").architecture == row
    for make in (kbuild.Make, kernel_toolchain.Make):
        make(row, tmp_path, tmp_path / "objects", tmp_path / "log").run(
            ["all"], MakeProgress(ProgressStep(Bus(), "x", "kernel")), deadline=Deadline.after(1)
        )
    assert ran[0] == ran[1]
    assert kernel_toolchain.make_words(row) == [f"CROSS_COMPILE={row.cross_prefix}"]


def test_the_key_of_a_kernel_has_the_versions_of_its_own_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(argv: list[str], **_: object) -> process.FinishedProcess:
        return process.FinishedProcess(tuple(argv), 0, f"{argv[0]} version 1\nmore\n", 0.0)

    monkeypatch.setattr(kernel_toolchain, "run", answer)
    named = recipe("clang-77").architecture
    assert kernel_toolchain.compiler_and_linker_versions(named) == (
        f"clang-77 version 1; ld.lld-77 version 1; CROSS_COMPILE={named.cross_prefix}; LLVM=-77"
    )
    # Programs of the guest have another key.
    assert "clang" not in kbuild.compiler_and_linker_versions(named)
    row = ARCHITECTURES["x86_64"]
    assert kernel_toolchain.compiler_and_linker_versions(row) == kbuild.compiler_and_linker_versions(row)


def test_clang_is_the_host_s_and_not_of_a_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINPOINT_CACHE", str(tmp_path))
    context = BuildContext.in_cache(Bus())
    assert debian_suite_compiler.key_parts(recipe("clang-19"), context) == []
    assert debian_suite_compiler.obtain_compiler(recipe("clang-19"), context) is None


@pytest.mark.parametrize(
    ("kernel", "complaint"),
    [
        ({"compiler": "gcc-14"}, "needs the suite that has it"),
        ({"compiler": "clang"}, "String should match pattern"),
        ({"compiler": "clang-19; true"}, "String should match pattern"),
        ({"compiler": "clang-19", "source": "debian-binary"}, "Debian builds its kernels with gcc"),
    ],
)
def test_a_compiler_that_cannot_be_had_is_refused(kernel: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        recipe(**{"compiler": "", **kernel})  # type: ignore[arg-type]
