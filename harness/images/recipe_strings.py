"""The strings that a recipe may have: they become words for make and apt, names of files, and lines of the terminal."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

# make, and the shell that it starts, would interpret `$`, `;` and the like. Only gcc's options of code generation,
# macros, debug information and warnings are allowed: -fplugin=, -B, -specs=, -wrapper and @FILE would run a program or
# read its options from a file.
_FLAG = re.compile(r"-(?:f(?!plugin)|[mOgDU]|W(?![alp],)|std=)[A-Za-z0-9_=+.,:%^-]*")

# A model, and features that are added, removed or set.
_CPU_MODEL = re.compile(r"[A-Za-z0-9][\w.-]*(?:,[+-]?[A-Za-z0-9][\w.-]*(?:=[\w.-]+)?)*", re.ASCII)


def _demand_safe_flags(flags: str) -> str:
    for flag in flags.split(" "):
        if flag and not _FLAG.fullmatch(flag):
            raise ValueError(f"{flag[:40]!r} is not an option of gcc for code, macros, debug information or warnings")
    return flags


def _demand_cpu_model(model: str) -> str:
    if model and not _CPU_MODEL.fullmatch(model):
        raise ValueError(f"{model[:40]!r} is not named like a CPU model of QEMU: cortex-a76, qemu64,+rdrand")
    return model


Flags = Annotated[str, Field(max_length=1024), AfterValidator(_demand_safe_flags)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=100)]
PackageName = Annotated[str, Field(pattern=r"^(?:[a-z0-9][a-z0-9.+-]+)?$", max_length=100)]
PackageVersion = Annotated[str, Field(pattern=r"^(?:[0-9][A-Za-z0-9.+~:-]*)?$", max_length=100)]
Compiler = Annotated[str, Field(pattern=r"^(?:(?:gcc|clang)-[0-9]{1,4})?$")]
CpuModel = Annotated[str, Field(max_length=200), AfterValidator(_demand_cpu_model)]
Line = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$", max_length=2048)]
CaseName = Annotated[
    str, Field(pattern=r"^test_\w+\.py(?:::test_\w+(?:\[[^\x00-\x20\x7f-\x9f]+\])?)?$", max_length=200)
]
