"""The compiler and linker of a kernel and of its modules: gcc and GNU ld, or LLVM's programs if the recipe names clang.

User programs of a guest are always built by gcc (kbuild.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from harness.core.architecture import Architecture
from harness.core.deadline import Deadline
from harness.core.process import run
from harness.images import kbuild
from harness.images.kbuild import MakeProgress


@lru_cache
def compiler_and_linker_versions(architecture: Architecture) -> str:
    """Return the first line of the compiler's and the linker's `--version`, for store keys.

    With LLVM, the variables of make are included. Raises HostError if a program is not installed.
    """
    if not architecture.llvm_suffix:
        return kbuild.compiler_and_linker_versions(architecture)
    tools = [f"{tool}{architecture.llvm_suffix}" for tool in ("clang", "ld.lld")]
    answers = [run([tool, "--version"], deadline=Deadline.after(30)) for tool in tools]
    return "; ".join((*(answer.output.partition("\n")[0] for answer in answers), *make_words(architecture)))


def make_words(architecture: Architecture) -> list[str]:
    """Return the arguments of make that choose the compiler and binutils, without ccache.

    With `LLVM=-19` make names every program with that suffix: clang-19, ld.lld-19, llvm-ar-19 (Makefile, 6.1).
    """
    llvm = [f"LLVM={architecture.llvm_suffix}"] if architecture.llvm_suffix else []
    return [f"CROSS_COMPILE={architecture.cross_prefix}", *llvm]


@dataclass(frozen=True)
class Make(kbuild.Make):
    """The kernel's make with the kernel's own compiler."""

    @property
    def compiler(self) -> str:
        """The compiler's program, without ccache."""
        llvm = f"clang{self.architecture.llvm_suffix}" if self.architecture.llvm_suffix else ""
        return llvm or str(self.compiler_program or f"{self.architecture.cross_prefix}gcc")

    def run(
        self,
        targets: Sequence[str],
        output: MakeProgress,
        *,
        deadline: Deadline,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Make the targets. Raises BuildError with the log and its first error."""
        super().run(targets, output, deadline=deadline, variables={**self._llvm_variables, **(variables or {})})

    @property
    def _llvm_variables(self) -> Mapping[str, str]:
        """The variables of make that choose LLVM's programs; none for gcc."""
        if not self.architecture.llvm_suffix:
            return {}
        compiler = kbuild.compiler_command(self.architecture, Path(self.compiler))
        return {"LLVM": self.architecture.llvm_suffix, "CC": compiler}


# The variable that Makefile sets to the options of link-time optimization (6.1).
_LTO_OPTIONS = "CC_FLAGS_LTO"


def probe_compiler_and_linker_versions(architecture: Architecture) -> str:
    """Return what `compiler_and_linker_versions` does, for the keys of the probe modules, which ProbeMake builds."""
    versions = compiler_and_linker_versions(architecture)
    return f"{versions}; {_LTO_OPTIONS}=" if architecture.llvm_suffix else versions


@dataclass(frozen=True)
class ProbeMake(Make):
    """The kernel's make for the probe modules: clang compiles each file to code, not for link-time optimization.

    In a target a call from one file to another must stay a call (probes/Kbuild), and a function must keep its name.
    """

    @property
    def _llvm_variables(self) -> Mapping[str, str]:
        chosen = super()._llvm_variables
        return {**chosen, _LTO_OPTIONS: ""} if chosen else {}
