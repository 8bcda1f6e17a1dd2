"""No TOML of other people costs more than seconds and some MiB."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import user_config
from harness.core import bounded_toml
from harness.core.errors import PinpointError
from harness.images.vm_recipe import load
from harness.report.compare import FailureBaseline

DOTS = ".b" * 15_000
TEXTS = {
    "plain": f"a{DOTS} = 1",
    "spaced": f"\t a{DOTS.replace('.', ' . ')} = 1",
    "quoted equals sign": f'"a="{DOTS} = 1',
    "literal equals sign": f"'a='{DOTS} = 1",
    "quoted bracket": f'"]#"{DOTS} = 1',
    "escaped quote": f'"\\"="{DOTS} = 1',
    "line separator in a key": f'"a\u2028"{DOTS} = 1',
    "table": f"[a{DOTS}]\nc = 1",
    "table of an array": f"[['a]'{DOTS}]]\nc = 1",
    "nested by dots": f"name = {{a{DOTS} = 1}}",
    "nested lists": f"name = {'[' * 15_000}",
    "nested closed lists": f"name = {'[' * 100}{']' * 100}",
    "unterminated": f'"a{DOTS} = 1',
}


def read_config(path: Path) -> object:
    path.rename(path.parent / user_config.NAME)
    return user_config.read()


@pytest.mark.parametrize("read", [load, FailureBaseline.read, read_config], ids=["recipe", "baseline", "configuration"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_long_keys_and_deep_values_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object], text: str
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = tmp_path / "vm.toml"
    path.write_text(f"{text}\n")
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(PinpointError) as caught:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 5
    assert caught.value.exit_status == 2
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "text",
    ['a = "x.y=[#"', f'describe = "{"." * 100}"', f"# {'.' * 100}", "a.b.'c.d' = {e.f = [[1.5]]}", "[a.b]\nc = 1"],
)
def test_ordinary_text_is_read(text: str) -> None:
    assert bounded_toml.loads(text) is not None
