"""Stage: make the images. One unit is one image; units of one batch are drawn together."""

from __future__ import annotations

import itertools

from PIL import Image

from dreambench import __version__
from dreambench.errors import UserError
from dreambench.files import encode_generated, finish_together, write_together
from dreambench.methods import Method
from dreambench.plan import ImageUnit
from dreambench.progress import Progress
from dreambench.run import Run


def generate_images(run: Run, method: Method, progress: Progress) -> None:
    """Makes every image that is left, in the plan's batches.

    A batch is drawn whole and written whole: it is never half there, and no interruption changes
    which images share a batch.
    """
    staging = run.run_dir / "images" / ".staging"
    finish_together(staging)
    what, n_all = f"{run.name}: images", len(run.plan.images)
    n_done = n_all - len(run.missing_images())
    for subject_name, group in itertools.groupby(run.plan.images, lambda unit: unit.subject):
        units = list(group)
        missing = [unit for unit in units if not run.image_path(unit).is_file()]
        if not missing:
            continue
        generator = method.load(run.subject(subject_name), run.train_dir(subject_name))
        batches = sorted({unit.batch for unit in missing})
        for batch in batches:
            members = [unit for unit in units if unit.batch == batch]
            progress(what, n_done, n_all)
            images = generator.generate(
                [unit.prompt for unit in members], [unit.seed for unit in members]
            )
            _check_images(images, members, method_name=run.name)
            files = {
                run.image_path(unit): _encode(image, unit, run)
                for unit, image in zip(members, images, strict=True)
                if unit in missing
            }
            write_together(staging, str(batch), files)
            n_done += len(files)
    progress(what, n_done, n_all)


def _check_images(images: list[Image.Image], units: list[ImageUnit], *, method_name: str) -> None:
    hint = "mend the method's generate()"
    if len(images) != len(units):
        raise UserError(
            f"{method_name} made {len(images)} images for {len(units)} prompts", hint=hint
        )
    for image in images:
        if not isinstance(image, Image.Image) or image.mode != "RGB":
            raise UserError(f"{method_name} made something that is no RGB image", hint=hint)


def _encode(image: Image.Image, unit: ImageUnit, run: Run) -> bytes:
    note = {
        "software": f"dreambench {__version__}",
        "method": run.name,
        "recipe": run.manifest["digests"]["recipe"],
        "protocol": f"{run.request.protocol.name} v{run.request.protocol.version}",
        "base_model": run.manifest["digests"]["base_model"],
        "subject": unit.subject,
        "prompt_id": unit.prompt_id,
        "prompt": unit.prompt,
        "k": unit.k,
        "seed": unit.seed,
    }
    return encode_generated(image, note)
