"""The file of --hosts: each mistake in it is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.errors import UsageError
from harness.matrix.hosts import hosts_file

GOOD = '[[host]]\nssh = "lab1"\npinpoint = "/opt/pinpoint/pinpoint"\n'


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "missing key: host"),
        ("host = []", "host: Tuple should have at least 1 item"),
        ("[[host]]\nssh = 3", "host '3' ssh: should be a valid string, it is 3"),
        (GOOD.replace('"lab1"', '"-oProxyCommand=x"'), "host '-oProxyCommand=x' ssh: String should match pattern"),
        (GOOD.replace("/opt", "opt"), "host 'lab1' pinpoint: String should match pattern"),
        (GOOD + 'cache = "~/x"', "host 'lab1' cache: String should match pattern"),
        (GOOD + "cores = 0", "host 'lab1' cores: should be greater than or equal to 1, it is 0"),
        (GOOD + 'gib = "8"', "host 'lab1' gib: should be a valid integer, it is '8'"),
        (GOOD + "memory = 8", "unknown key: host 'lab1' memory"),
        (GOOD + GOOD, "'lab1' is named twice"),
        ("[hosts]", "unknown key: hosts"),
        ("host = ", "is not TOML"),
        ("host = 3", "host: "),
        ("host = [3]", "host 0: "),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, text: str, wanted: str) -> None:
    file = tmp_path / "hosts.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        hosts_file.read(file)
    assert str(caught.value).startswith(f"{file}: {wanted}"), str(caught.value)
    assert str(caught.value).endswith("; see docs/hosts.md")
    assert "\n" not in str(caught.value)


def test_a_good_file(tmp_path: Path) -> None:
    file = tmp_path / "hosts.toml"
    file.write_text(GOOD + "cores = 8\ngib = 16\n" + GOOD.replace("lab1", "me@lab2"))
    first, second = hosts_file.read(file)
    assert (first.ssh, first.pinpoint, first.cache, first.cores, first.gib) == (
        "lab1",
        "/opt/pinpoint/pinpoint",
        "",
        8,
        16,
    )
    assert (second.ssh, second.cores, second.gib) == ("me@lab2", None, None)
    with pytest.raises(UsageError, match="cannot be read"):
        hosts_file.read(tmp_path)
