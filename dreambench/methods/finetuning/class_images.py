"""Class images for prior preservation (DreamBooth, section 3.3), generated once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dreambench import __version__
from dreambench.artifacts.plan import derive_seed
from dreambench.base_models.base import LoadedModel
from dreambench.base_models.encodings import EncodedImages
from dreambench.machine.devices import describe_compute
from dreambench.machine.environment import describe_packages
from dreambench.methods.base import Context
from dreambench.methods.generators import TextGenerator
from dreambench.storage.files import (
    digest,
    finish_together,
    make_dir,
    sha256_file,
    write_json,
)
from dreambench.storage.images import encode_generated, load_image
from dreambench.storage.locks import locked
from dreambench.storage.paths import check_tree, remove_leftovers
from dreambench.storage.sums import find_changed, read_sums, write_products


def make_class_images(
    model: LoadedModel, context: Context, *, class_name: str, n_images: int
) -> list[Path]:
    """Return images of "a [class]" by the base model, generated where the cache lacks them.

    They are kept by all that their bits depend on, so that subjects, methods and runs share them,
    and finished ones outlive a kill. One that was changed since is generated again.
    """
    key = {
        "base_model": context.base_model.identity(),
        "class_name": class_name,
        "sampler": context.sampler.model_dump(mode="json"),
        "precision": context.precision,
        "compute": describe_compute(context.device).model_dump(mode="json"),
        "packages": describe_packages(),
        "batch_size": context.batch_size,
    }
    if model.quantization != "none":
        key["quantization"] = model.quantization
    folder = make_dir(context.cache_dir / "class-images" / digest(key), inside=context.cache_dir)
    check_tree(folder)
    with locked(folder / "lock"):
        remove_leftovers(folder)
        finish_together(folder / "staging")
        if not (folder / "key.json").exists():
            write_json(folder / "key.json", key)
        paths = [folder / f"{index}.png" for index in range(n_images)]
        generator = TextGenerator(model, subject_phrase=class_name)
        size = context.batch_size
        # Whole batches, also past n_images, so that an image's bits do not depend on n_images.
        usable = read_sums(folder).keys() - find_changed(folder)
        for start in range(0, n_images, size):
            batch = [f"{index}.png" for index in range(start, start + size)]
            if usable.issuperset(batch):
                continue
            context.progress(f"class images of {class_name}", start, n_images)
            seeds = [derive_seed("class-image", class_name, start + i) for i in range(size)]
            images = generator.generate([f"a {class_name}"] * size, seeds)
            note = {**key, "software": f"dreambench {__version__}", "prompt": f"a {class_name}"}
            contents = {
                name: encode_generated(image, {**note, "seed": seed})
                for name, image, seed in zip(batch, images, seeds, strict=True)
            }
            write_products(folder / "staging", str(start), folder, contents)
        context.progress(f"class images of {class_name}", n_images, n_images)
        return paths


def encode_class_images(model: LoadedModel, paths: Sequence[Path]) -> EncodedImages:
    """Return class images of `make_class_images` as the training loop takes them.

    They are kept beside the images, for other processes and runs: all that their bits depend on is
    in the name of the folder.
    """
    folder = paths[0].parent
    file = folder / f"encoded-{len(paths)}.safetensors"
    with locked(folder / "lock"):
        known = read_sums(folder).get(file.name)
        if known and file.is_file() and sha256_file(file) == known:
            return EncodedImages.load(file.read_bytes(), device=model.device)
        encoded = model.encode_images([load_image(path) for path in paths])
        write_products(folder / "staging", "encoded", folder, {file.name: encoded.save()})
        return encoded


class ClassImages:
    """Encoded class images, made once for each class noun."""

    def __init__(self, model: LoadedModel, context: Context, *, n_images: int) -> None:
        self._model = model
        self._context = context
        self._n_images = n_images
        self._encoded: dict[str, EncodedImages] = {}

    def encode(self, class_name: str) -> EncodedImages:
        """Return the class's images as the training loop takes them."""
        if class_name not in self._encoded:
            paths = make_class_images(
                self._model, self._context, class_name=class_name, n_images=self._n_images
            )
            self._encoded[class_name] = encode_class_images(self._model, paths)
        return self._encoded[class_name]
