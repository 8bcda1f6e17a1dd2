"""From a recipe to an image: kernel, root file system and probe modules, each from the store or built now."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from harness.images import debian_kernel, modules, programs, qemu_program, rootfs, source_kernel, user_targets
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.kernel import KernelBuild
from harness.images.recipe import Recipe
from harness.images.store import key_of


class _KernelRoom(Protocol):
    """What each way to come by a kernel offers."""

    def key_parts(self, recipe: Recipe, build_context: BuildContext) -> list[str]: ...

    def obtain(self, recipe: Recipe, build_context: BuildContext) -> KernelBuild: ...


def prepare(recipe: Recipe, build_context: BuildContext, *, probes: bool = True) -> Image:
    """Everything a guest of this recipe needs, verified; without what is made of probes/ where that is not wanted.

    The userland, which needs no kernel and is always of the host's release, is made while the kernel is; then the
    modules while the root file system is packed. Raises RecipeError, BuildError or HostError, each one line.
    """
    room = _kernel(recipe)
    elsewhere = build_context.of(recipe.kernel.suite)
    key = key_of(room.key_parts(recipe, elsewhere))
    missing = not build_context.store.present(rootfs.KIND, rootfs.key_parts(recipe, key, build_context))
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"{recipe.name}-aside") as aside:
        userland = aside.submit(rootfs.obtain_userland, recipe, build_context) if missing else None
        kernel = room.obtain(recipe, elsewhere)
        if userland:
            userland.result()
        packed = aside.submit(rootfs.obtain, recipe, kernel, build_context)
        built = modules.obtain(recipe, kernel, build_context) if probes else {}
        hands = programs.obtain(recipe, build_context) if probes else {}
        if probes and recipe.traits.uprobes:
            hands = {**hands, **user_targets.obtain(recipe, build_context)}
        initrd = packed.result().path / rootfs.INITRD
    return Image(
        recipe=qemu_program.resolved(recipe, build_context),
        key=image_key(recipe, build_context),
        kernel=kernel.elf if recipe.machine.boot == "pvh" else kernel.kernel,
        vmlinux=kernel.vmlinux,
        initrd=initrd,
        modules=built,
        release=kernel.release,
        build_id=kernel.build_id,
        config=kernel.config,
        facts=kernel.facts,
        programs=hands,
        drivers={path.stem.partition("-")[2].replace("-", "_"): path for path in kernel.drivers},
        headers=kernel.headers,
    )


def image_key(recipe: Recipe, build_context: BuildContext) -> str:
    """What names the image in results: a digest over all that goes into its parts. Nothing is fetched or built."""
    return key_of([key_of(parts) for _, parts in _layers(recipe, build_context)])


def built(recipe: Recipe, build_context: BuildContext) -> bool:
    """True when every part of the image is in the store; a cheap look that verifies nothing."""
    if not build_context.store.root.is_dir():
        return False
    layers = all(build_context.store.present(kind, parts) for kind, parts in _layers(recipe, build_context))
    return layers and qemu_program.present(recipe, build_context)


def _layers(recipe: Recipe, build_context: BuildContext) -> list[tuple[str, list[str]]]:
    """Kind and parts of each store entry that the image is made of."""
    kernel = _kernel(recipe).key_parts(recipe, build_context.of(recipe.kernel.suite))
    key = key_of(kernel)
    return [
        (debian_kernel.KIND, kernel),
        (rootfs.KIND, rootfs.key_parts(recipe, key, build_context)),
        (modules.KIND, modules.key_parts(recipe, key, build_context)),
        (programs.KIND, programs.key_parts(recipe)),
        *([(user_targets.KIND, user_targets.key_parts(recipe))] if recipe.traits.uprobes else []),
    ]


def _kernel(recipe: Recipe) -> _KernelRoom:
    """The module that comes by the kernel of this recipe."""
    return debian_kernel if recipe.kernel.source == "debian-binary" else source_kernel
