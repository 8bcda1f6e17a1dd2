"""`./pinpoint doctor` prints which QEMU runs the VMs that need or prefer a newer one."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import doctor
from harness.core import paths, program_versions
from harness.core.errors import HostError

RECIPES = {
    "needs": '[machine]\nqemu = ">= 11"\n',
    "prefers": '[machine]\npreferred_qemu = ">= 11"\n',
    "older": '[machine]\nqemu = ">= 7.1"\n',
    "any": "[machine]\n",
    "broken": "[machine\n",
}


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in RECIPES.items():
        (tmp_path / f"{name}.toml").write_text(f'name = "{name}"\narch = "parisc"\n{text}')
    (tmp_path / "unknown.toml").write_text('arch = "vax"\n[machine]\nqemu = ">= 11"\n')
    monkeypatch.setattr(paths, "RECIPES", tmp_path)


@pytest.mark.usefixtures("recipes")
@pytest.mark.parametrize(
    ("version", "of_11", "of_7"),
    [
        ("7.2.22", "that of a newer Debian suite, fetched at first use (the host has 7.2.22)", "the host's"),
        ("7.0.1", "that of a newer Debian suite, fetched at first use (the host has 7.0.1)", "that of a newer"),
        ("11.0.0", "the host's (the host has 11.0.0)", "the host's"),
        ("", "that of a newer Debian suite, fetched at first use", "that of a newer"),
    ],
)
def test_the_qemu_of_each_version(version: str, of_11: str, of_7: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def first_line(program: str) -> str:
        if not version:
            raise HostError(f"{program} is not installed")
        return f"QEMU emulator version {version} (Debian)"

    monkeypatch.setattr(program_versions, "first_version_line", first_line)
    lines = list(doctor._newer_qemus())
    assert lines[0] == f"qemu-system-hppa >= 11 for needs, prefers: {of_11}"
    assert lines[1].startswith(f"qemu-system-hppa >= 7.1 for older: {of_7}")
    assert len(lines) == 2


def test_no_line_where_no_recipe_names_a_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "RECIPES", tmp_path)
    assert list(doctor._newer_qemus()) == []
