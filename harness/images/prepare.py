"""From a recipe to an image: kernel, root file system and probe modules, each from the store or built now."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness.images import (
    agreed_layers,
    debian_kernel,
    debian_suite_cross_tools,
    debug_symbols,
    given_kernel,
    loader_programs,
    modules,
    qemu_program,
    rootfs,
    source_kernel,
    stored_kernel,
    user_targets,
)
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.image_part_protocols import ImagePartBuilder, PerKernelPartBuilder
from harness.images.kernel import KernelBuild
from harness.images.store import Entry, key_of
from harness.images.vm_recipe import Recipe

_KERNEL = debian_kernel.KIND
_KERNELS: Mapping[str, ImagePartBuilder[KernelBuild]] = {"debian-binary": debian_kernel, "given": given_kernel}
_MODULES: PerKernelPartBuilder[Mapping[str, Path]] = modules
_ROOTFS: PerKernelPartBuilder[Entry] = rootfs
_PROGRAMS: ImagePartBuilder[Mapping[str, Path]] = loader_programs
_USER_TARGETS: ImagePartBuilder[Mapping[str, Path]] = user_targets


def prepare(recipe: Recipe, build_context: BuildContext, *, probes: bool = True) -> Image:
    """Return the verified image of a recipe; without `probes`, it has no modules and programs of probes/.

    The userland and the programs need no kernel, and are always of the host's release, so they are built in parallel
    with the kernel. Then the modules are built while the root file system is packed. Raises RecipeError, BuildError or
    HostError, each one line. An image whose entries another host has named is only taken from the store.
    """
    layers, whole_context = _layers(recipe, build_context), build_context
    if _agreed_layers(recipe, build_context):
        build_context = build_context.without_builds()
    missing = not build_context.store.present(rootfs.KIND, layers[rootfs.KIND])
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"{recipe.name}-aside") as aside:
        user_space = _recipe_of_user_space(recipe)
        userland = aside.submit(rootfs.obtain_userland, user_space, build_context) if missing else None
        programs = [
            aside.submit(layer.obtain, user_space, build_context, layers[layer.KIND])
            for layer in (_of_user_space(recipe) if probes else [])
        ]
        kernel = _obtain_kernel(recipe, build_context, layers)
        if userland:
            userland.result()
        packed = aside.submit(_ROOTFS.obtain, user_space, kernel, build_context, layers[rootfs.KIND])
        built = _MODULES.obtain(recipe, kernel, build_context, layers[modules.KIND]) if probes else {}
        in_guest = {name: path for obtained in programs for name, path in obtained.result().items()}
        symbols = _debug_symbols(recipe, kernel, build_context, layers)
        initrd = packed.result().path / rootfs.INITRD
    return Image(
        recipe=qemu_program.with_required_qemu(recipe, whole_context),
        key=_key(layers),
        kernel=kernel.bootable_elf if recipe.machine.boot == "pvh" else kernel.kernel,
        vmlinux=kernel.vmlinux,
        initrd=initrd,
        modules=built,
        release=kernel.release,
        build_id=kernel.build_id,
        config=kernel.config,
        facts=kernel.facts,
        programs=in_guest,
        drivers={path.stem.partition("-")[2].replace("-", "_"): path for path in kernel.drivers},
        headers=kernel.headers,
        debug_symbols=symbols,
    )


def obtain_entries(recipe: Recipe, build_context: BuildContext, kinds: Collection[str]) -> None:
    """Fetch or build the store entries of these kinds, and the kernel if one of them needs it. Raises as `prepare`."""
    layers, user_space = _layers(recipe, build_context), _recipe_of_user_space(recipe)
    for layer in _of_user_space(recipe):
        if layer.KIND in kinds:
            layer.obtain(user_space, build_context, layers[layer.KIND])
    if not {_KERNEL, rootfs.KIND, modules.KIND, debug_symbols.KIND} & set(kinds):
        return
    kernel = _obtain_kernel(recipe, build_context, layers)
    if rootfs.KIND in kinds:
        _ROOTFS.obtain(user_space, kernel, build_context, layers[rootfs.KIND])
    if modules.KIND in kinds:
        _MODULES.obtain(recipe, kernel, build_context, layers[modules.KIND])
    if debug_symbols.KIND in kinds:
        _debug_symbols(recipe, kernel, build_context, layers)


def kernel_config_of(recipe: Recipe, build_context: BuildContext) -> Mapping[str, str]:
    """Return the configuration of a recipe's kernel, which is fetched or built if necessary."""
    debian_suite_cross_tools.obtain_cross_tools(recipe, build_context)
    context = build_context.with_suite(recipe.kernel.suite)
    layer = _kernel(recipe)
    return layer.obtain(recipe, context, layer.key_parts(recipe, context)).config


def image_key(recipe: Recipe, build_context: BuildContext) -> str:
    """Return the image's name in results: a digest of all inputs of its parts. Nothing is built.

    Nothing is fetched, except the cross compiler of another Debian suite: its version is one of the inputs.
    """
    return _key(_layers(recipe, build_context))


def layers_of(recipe: Recipe, build_context: BuildContext) -> dict[str, list[str]]:
    """Map the kind of each store entry of the image to the inputs of the entry, in the order of the image's key."""
    return _layers(recipe, build_context)


def store_entries(recipe: Recipe, build_context: BuildContext) -> dict[str, Sequence[str]]:
    """Map the kind of each store entry that a run on this image needs to its inputs, with the QEMU if it is fetched."""
    return {**_layers(recipe, build_context), **qemu_program.store_entry(recipe, build_context)}


def _key(layers: Mapping[str, Sequence[str]]) -> str:
    # A guest is the same with and without debug symbols.
    return key_of([key_of(parts) for kind, parts in layers.items() if kind != debug_symbols.KIND])


def is_built(recipe: Recipe, build_context: BuildContext) -> bool:
    """Return True when every part of the image is in the store. Nothing is fetched, and files are not verified."""
    if not build_context.store.root.is_dir():
        return False
    # The inputs of the image include the version of the cross compiler, so they cannot be computed without it.
    computes = not _agreed_layers(recipe, build_context)
    if computes and not debian_suite_cross_tools.are_cross_tools_present(recipe, build_context):
        return False
    layers = all(build_context.store.present(kind, parts) for kind, parts in _layers(recipe, build_context).items())
    return layers and qemu_program.is_required_qemu_present(recipe, build_context)


def _layers(recipe: Recipe, build_context: BuildContext) -> dict[str, list[str]]:
    """Map the kind of each store entry of the image to the inputs of the entry. Each key is computed once."""
    if agreed := _agreed_layers(recipe, build_context):
        return agreed
    debian_suite_cross_tools.obtain_cross_tools(recipe, build_context)
    kernel = _kernel(recipe).key_parts(recipe, build_context.with_suite(recipe.kernel.suite))
    key, user_space = key_of(kernel), _recipe_of_user_space(recipe)
    return {
        _KERNEL: kernel,
        _ROOTFS.KIND: _ROOTFS.key_parts(user_space, key, build_context),
        _MODULES.KIND: _MODULES.key_parts(recipe, key, build_context),
        **{layer.KIND: layer.key_parts(user_space, build_context) for layer in _of_user_space(recipe)},
        **_debug_symbols_layer(recipe, build_context),
    }


def _agreed_layers(recipe: Recipe, build_context: BuildContext) -> dict[str, list[str]] | None:
    return agreed_layers.find(recipe.name, build_context.store) if build_context.uses_agreed_layers else None


def _debug_symbols_layer(recipe: Recipe, build_context: BuildContext) -> dict[str, list[str]]:
    if not recipe.kernel.debug_symbols:
        return {}
    return {debug_symbols.KIND: debug_symbols.key_parts(recipe, build_context.with_suite(recipe.kernel.suite))}


def _debug_symbols(
    recipe: Recipe, kernel: KernelBuild, build_context: BuildContext, layers: Mapping[str, Sequence[str]]
) -> Path | None:
    if not recipe.kernel.debug_symbols:
        return None
    context = build_context.with_suite(recipe.kernel.suite)
    return debug_symbols.obtain(recipe, kernel.build_id, context, layers[debug_symbols.KIND])


def _recipe_of_user_space(recipe: Recipe) -> Recipe:
    """Return the recipe with the architecture of its programs, which then are those of that architecture's guests."""
    other = recipe.architecture.userland_architecture
    return recipe.model_copy(update={"arch": other}) if other else recipe


def _of_user_space(recipe: Recipe) -> list[ImagePartBuilder[Mapping[str, Path]]]:
    """Return the parts that are the same for every kernel of an architecture."""
    return [_PROGRAMS, *([_USER_TARGETS] if recipe.traits.uprobes else [])]


def _obtain_kernel(recipe: Recipe, build_context: BuildContext, layers: Mapping[str, Sequence[str]]) -> KernelBuild:
    if _agreed_layers(recipe, build_context):
        return stored_kernel.obtain(recipe, build_context, layers[_KERNEL])
    return _kernel(recipe).obtain(recipe, build_context.with_suite(recipe.kernel.suite), layers[_KERNEL])


def _kernel(recipe: Recipe) -> ImagePartBuilder[KernelBuild]:
    """Return the module that fetches, builds or takes over the kernel of this recipe."""
    return _KERNELS.get(recipe.kernel.source, source_kernel)
