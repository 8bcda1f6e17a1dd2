"""The command of `--loader`: somebody else's loader, as the user typed it, checked before anything boots.

docs/foreign-loaders.md describes the convention that the command must follow.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from harness.core import paths
from harness.core.errors import UsageError
from harness.images.vm_recipe import Recipe

# The directories in which the guest's shell looks for programs.
_PATH = ("sbin", "bin", "usr/sbin", "usr/bin")
_OPTION = "--loader"
_CONVENTION = "see docs/foreign-loaders.md"


@dataclass(frozen=True)
class ForeignLoaderProgramAndArguments:
    """A command that loads a probe module.

    `host_file` is the file of the host that is copied into the guest and run there; None for a program of the guest,
    whose name or path is `program`. `arguments` come before those of the convention.
    """

    program: str
    arguments: tuple[str, ...] = ()
    host_file: Path | None = None

    @classmethod
    def parse_command_line(cls, text: str) -> ForeignLoaderProgramAndArguments:
        """Parse the text of --loader: a command line in the syntax of the shell.

        The first word is a file of the host if it has a slash, otherwise the name of a program of the guest. Raises
        UsageError for a file that does not exist or is no program.
        """
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise UsageError(
                f"{text!r} cannot be divided into words: {error}", where=_OPTION, mend="close the quotes"
            ) from None
        if not words:
            raise UsageError("the command is empty", where=_OPTION, mend=_CONVENTION)
        program, *arguments = words
        if "/" not in program:
            return cls(program, tuple(arguments))
        try:
            path = Path(program).expanduser().resolve()
            host_file = paths.copy_of(path)
            known, exists = host_file.is_file(), host_file.exists()
        except (OSError, ValueError, RuntimeError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise UsageError(f"{program[:80]!r} is no path: {reason}", where=_OPTION, mend=_CONVENTION) from None
        if not known:
            what = "is not a file" if exists else "does not exist"
            raise UsageError(
                f"{program} {what}", where=_OPTION, mend="name a program or a script of this host, or one of the guest"
            )
        return cls(str(path), tuple(arguments), host_file)

    @property
    def loader_option_value(self) -> str:
        """The command as it can be given to --loader again, from any directory."""
        return shlex.join([self.program, *self.arguments])

    @property
    def shown(self) -> str:
        """The command for messages: its program without the directory, and its arguments."""
        return shlex.join([Path(self.program).name, *self.arguments])

    @property
    def program_in_guest(self) -> str:
        """What is run in the guest: the path of the copied file, or the program's name."""
        return f"/tmp/pinpoint-foreign-{self.host_file.name}" if self.host_file else self.program

    def demand_runs_on_vm(self, recipe: Recipe, root_of: Callable[[Recipe], Path]) -> None:
        """Check that the guests of a VM can run the command; `root_of` returns the tree of a guest's userland.

        Raises UsageError for a program that the guest does not have, a binary of another architecture, one that is not
        statically linked, or a script whose interpreter the guest does not have.
        """
        if self.host_file is None:
            if not any(_is_in(root_of(recipe), f"{place}/{self.program}") for place in _PATH):
                raise UsageError(
                    f"{self.program} is not a program of the guest",
                    where=f"{_OPTION}, {recipe.name}",
                    mend=f"for a file of this host, write its path: ./{self.program}",
                )
            return
        interpreter = _interpreter_of(self.host_file)
        if interpreter is None:
            _demand_static(self.host_file, recipe)
        elif not _is_in(root_of(recipe), interpreter):
            raise UsageError(
                f"{self.host_file.name} needs {interpreter}, which the guest does not have",
                where=f"{_OPTION}, {recipe.name}",
                mend="write it for busybox's /bin/sh, or link a static program",
            )


def _is_in(root: Path, path: str) -> bool:
    """Return True if a path of the guest is in the tree of its userland; links there are absolute."""
    place = root / path.lstrip("/")
    return place.is_symlink() or place.exists()


def _interpreter_of(path: Path) -> str | None:
    """Return the interpreter of a script, None for an ELF file. Raises UsageError for any other file."""
    try:
        with path.open("rb") as file:
            first = file.readline(256)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", where=_OPTION, mend="check its mode") from None
    words = first[2:].decode(errors="replace").split()
    if first.startswith(b"#!") and words:
        return words[0]
    if first.startswith(b"\x7fELF"):
        return None
    raise UsageError(
        f"{path.name} is neither a program nor a script that begins with #!", where=_OPTION, mend=_CONVENTION
    )


def _demand_static(path: Path, recipe: Recipe) -> None:
    """Raise UsageError unless an ELF file is a static program for a VM's architecture."""
    try:
        with path.open("rb") as file:
            parsed = ELFFile(file)
            machine = str(parsed["e_machine"])
            dynamic = any(segment["p_type"] == "PT_INTERP" for segment in parsed.iter_segments())
    except (ELFError, OSError) as error:
        raise UsageError(f"{path.name} is a damaged program: {error}", where=_OPTION, mend="build it again") from None
    wanted = recipe.architecture.elf_machine
    if machine != wanted:
        raise UsageError(
            f"{path.name} is built for {machine}, the guest's programs for {wanted}",
            where=f"{_OPTION}, {recipe.name}",
            mend="build it for this VM, or choose another with --vm",
        )
    if dynamic:
        raise UsageError(
            f"{path.name} is dynamically linked, and the guest has no libraries for it",
            where=_OPTION,
            mend="link it with -static",
        )
