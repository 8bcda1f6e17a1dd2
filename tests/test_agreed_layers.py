"""An image whose store entries another host has named is taken from the store, without compilers and package lists."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from harness.core.errors import HostError
from harness.core.events import Bus, ProgressStep
from harness.images import agreed_layers, debian_kernel, prepare, stored_kernel
from harness.images.build_context import BuildContext
from harness.images.vm_recipe import Kernel, Recipe, load_all

LAYERS = {"kernel": ["of another host"], "rootfs": ["r"], "modules": ["m"], "programs": ["p"]}
RECIPES = load_all()


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BuildContext:
    """Return the context of a host with an empty cache and without any program."""
    monkeypatch.setenv("PINPOINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    # The test's end restores what use_in_this_process() sets.
    monkeypatch.setenv(agreed_layers.VARIABLE, "{}")
    return BuildContext.in_cache(Bus())


def agree(recipe: Recipe, context: BuildContext) -> None:
    agreed_layers.use_in_this_process(recipe.name, agreed_layers.keep(LAYERS, recipe.name, context.store))


def test_the_key_is_that_of_the_other_host(context: BuildContext) -> None:
    recipe = RECIPES["parisc-host-qemu"]
    with pytest.raises(HostError):
        prepare.image_key(recipe, context)
    agree(recipe, context)
    assert prepare.layers_of(recipe, context) == LAYERS
    assert list(prepare.layers_of(recipe, context)) == list(LAYERS)
    assert not prepare.is_built(recipe, context)
    for kind, parts in LAYERS.items():
        context.store.obtain(kind, parts, vm=recipe.name, build=lambda *_: {})
    assert prepare.is_built(recipe, context)
    # Those of other VMs are still computed here.
    assert agreed_layers.find("arm64-debian", context.store) is None


def test_nothing_is_built_under_the_key_of_another_host(context: BuildContext) -> None:
    """Its compilers are not in the key."""
    recipe = RECIPES["parisc-host-qemu"]
    agree(recipe, context)
    with pytest.raises(HostError, match="is not in the store any more"):
        prepare.prepare(recipe, context)
    assert not list(context.store.root.glob("kernel-*"))
    # The same store still builds what is this host's own.
    assert context.store.obtain("own", ["x"], vm="", build=lambda *_: {"a": 1}).facts == {"a": 1}


def test_inputs_that_are_lost_are_reported(context: BuildContext) -> None:
    recipe = RECIPES["parisc-host-qemu"]
    agree(recipe, context)
    shutil.rmtree(next(context.store.root.glob(f"{agreed_layers.KIND}-*")))
    with pytest.raises(HostError, match="the store lacks the inputs of the image of parisc-host-qemu"):
        prepare.image_key(recipe, context)


@pytest.mark.usefixtures("context")
def test_each_vm_has_its_own() -> None:
    agreed_layers.use_in_this_process("a", "1")
    agreed_layers.use_in_this_process("b", "2")
    assert json.loads(os.environ[agreed_layers.VARIABLE]) == {"a": "1", "b": "2"}
    assert agreed_layers.variables({}) == {}


def entry_of(recipe: Recipe, context: BuildContext) -> None:
    def build(entry: Path, _step: ProgressStep) -> dict[str, object]:
        for name in ("linux-headers-6.1-common", "linux-headers-6.1-amd64"):
            (entry / "tree/usr/src" / name).mkdir(parents=True)
        (entry / "config.json").write_text('{"CONFIG_X": "y"}')
        (entry / "config").write_text("CONFIG_X=y\n")
        facts = {"release": "6.1-amd64", "build_id": "b1d", "drivers": ["1-virtio.ko"], "symbols": 3}
        placed = {"source": "linux-source-6.1 6.1.170-3", "kernel": "bzImage", "places": ["tree"]}
        return {**facts, **placed, "paths": {"source": "tree/a", "objects": "tree/b"}}

    context.store.obtain(debian_kernel.KIND, LAYERS["kernel"], vm=recipe.name, build=build)


@pytest.mark.parametrize(
    ("kernel", "source"),
    [
        (RECIPES["x86_64-debian"].kernel, "store/*/tree/usr/src/linux-headers-6.1-common"),
        (Kernel(source="given", given=("/nowhere/linux",)), "store/*/tree/a"),
        (Kernel(source="tree", tree="/nowhere/linux", config=("base",)), "/nowhere/linux"),
        (RECIPES["parisc-host-qemu"].kernel, "sources/linux-source-6.1-6.1.170-3-*"),
    ],
    ids=["package", "given", "tree", "source"],
)
def test_a_kernel_of_any_source_comes_from_the_store(context: BuildContext, kernel: Kernel, source: str) -> None:
    recipe = RECIPES["x86_64-debian"].model_copy(update={"kernel": kernel})
    entry_of(recipe, context)
    found = stored_kernel.obtain(recipe, context, LAYERS["kernel"])
    assert (found.release, found.build_id, found.config) == ("6.1-amd64", "b1d", {"CONFIG_X": "y"})
    assert [path.name for path in found.drivers] == ["1-virtio.ko"]
    assert found.headers.source.match(source)
    with pytest.raises(HostError, match="is not in the store any more"):
        stored_kernel.obtain(recipe, context, ["another"])
