"""Stage: generate the images of a subject; those of one batch are made together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, Self

from PIL import Image

from dreambench import __version__
from dreambench.artifacts.plan import ImageUnit
from dreambench.methods.base import Generator, Method
from dreambench.methods.calls import Calls
from dreambench.runs.failures import FailureLog, raise_if_photo, tell_of_left
from dreambench.runs.run_folder import Run
from dreambench.storage.images import encode_generated
from dreambench.storage.sums import write_products


class ImagesError(Exception):
    """What a method's generate() gave back is not what a run needs."""


def generate_subject(
    run: Run,
    method: Method,
    name: str,
    *,
    failures: FailureLog,
    calls: Calls,
    progress: Callable[[int], None],
) -> list[ImageUnit]:
    """Generate every image of a subject that is left, in the plan's batches; return those made.

    A batch is made whole and written whole: it is never half there, and no interruption changes
    which images share a batch. One that raises is recorded, and the others go on. `progress` is
    told how many images were made by each, once they are written.
    """
    missing = run.missing_of(name)
    fail = partial(failures.record, "load", n_images=len(missing))
    try:
        generator = calls.run(
            partial(method.load, run.subject(name), run.train_dir(name)), on_hang=fail
        )
    except Exception as error:
        raise_if_photo(error, run.subject(name))
        fail(error)
        return []
    with _Writer(progress, is_beside=not calls.watches_files) as writer:
        _make_batches(run, generator, missing, failures, calls, writer)
    left = set(run.missing_of(name))
    return [unit for unit in missing if unit not in left]


class _Writer:
    """Writes one batch of images after another, in a thread beside the method's next batch.

    So a GPU need not wait for PNG files. `progress` is told of what is written, by the thread that
    hands it over. Not beside it (`is_beside`) where the method's own files are watched, among which
    those of another thread would be found.
    """

    def __init__(self, progress: Callable[[int], None], *, is_beside: bool) -> None:
        self._progress = progress
        self._is_beside = is_beside
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write-images")
        self._pending: Future[int] | None = None

    def write(self, write_batch: Callable[[], int]) -> None:
        """Have a batch written, and its images counted, when the last one is."""
        self.finish()
        self._pending = self._pool.submit(write_batch)
        if not self._is_beside:
            self.finish()

    def finish(self) -> None:
        """Wait until all is written; raise what went wrong."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self._progress(pending.result())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True)
        if error is None:
            self.finish()


def _make_batches(
    run: Run,
    generator: Generator,
    missing: list[ImageUnit],
    failures: FailureLog,
    calls: Calls,
    writer: _Writer,
) -> None:
    size_px = run.manifest.sampler.size_px
    batches = sorted({unit.batch for unit in missing})
    for index, batch in enumerate(batches):
        members = [unit for unit in run.plan.images if unit.batch == batch]
        wanted = [unit for unit in missing if unit.batch == batch]
        subject = wanted[0].subject
        fail = partial(failures.record, "generate", n_images=len(wanted))
        try:
            images = calls.run(
                partial(_generate, generator, members, size_px=size_px), on_hang=fail
            )
        except Exception as error:
            fail(error)
            n_rest = sum(unit.batch in batches[index + 1 :] for unit in missing)
            if failures.is_stuck and n_rest:
                why = failures.found[-1].message
                failures.leave("generate", n_images=n_rest, why=why)
                tell_of_left(run, "generate", [subject], why)
                return
            continue
        failures.went_well()
        made = {unit: image for unit, image in zip(members, images, strict=True) if unit in wanted}
        writer.write(partial(_write, run, made))


def _write(run: Run, made: Mapping[ImageUnit, Image.Image]) -> int:
    """Write the images of a batch; return how many they are."""
    (subject,), (batch,) = {unit.subject for unit in made}, {unit.batch for unit in made}
    contents = {unit.path_of_subject: _encode(image, unit, run) for unit, image in made.items()}
    write_products(run.staging_of(subject), str(batch), run.images_dir(subject), contents)
    return len(contents)


def _generate(
    generator: Generator, units: Sequence[ImageUnit], *, size_px: int
) -> list[Image.Image]:
    """Return images with pixels in memory, whatever of PIL's classes or its own a method gave.

    An image that is read only when its pixels are asked for, or has methods of its own, is
    asked here, where its failure is the method's.
    """
    images: Any = generator.generate([unit.prompt for unit in units], [unit.seed for unit in units])
    _check_images(images, units, size_px=size_px)
    found = []
    for image in images:
        plain = Image.frombytes("RGB", (size_px, size_px), image.tobytes())
        if profile := image.info.get("icc_profile"):
            plain.info["icc_profile"] = bytes(profile)
        found.append(plain)
    return found


def _check_images(images: Any, units: Sequence[ImageUnit], *, size_px: int) -> None:
    """Raise ImagesError unless there is one square RGB image of the protocol's size a prompt.

    Encoders would take other sizes, but not to the same number: whoever makes larger or smaller
    images has to say how they are resized.
    """
    if not isinstance(images, Sequence) or len(images) != len(units):
        n_images = len(images) if isinstance(images, Sequence) else "no list of"
        raise ImagesError(f"generate() made {n_images} images for {len(units)} prompts")
    for image in images:
        if not isinstance(image, Image.Image):
            raise ImagesError(f"generate() made a {type(image).__name__} and no PIL image")
        if image.mode != "RGB":
            raise ImagesError(f"generate() made an image of mode {image.mode}, not RGB")
        if image.size != (size_px, size_px):
            size = f"{image.width} x {image.height}"
            raise ImagesError(
                f"generate() made an image of {size} pixels, not {size_px} x {size_px}"
            )


def _encode(image: Image.Image, unit: ImageUnit, run: Run) -> bytes:
    note = {
        "software": f"dreambench {__version__}",
        "method": run.name,
        "recipe": run.manifest.digests.recipe,
        "protocol": f"{run.protocol.name} v{run.protocol.version}",
        "base_model": run.manifest.digests.base_model,
        "subject": unit.subject,
        "prompt_id": unit.prompt_id,
        "prompt": unit.prompt,
        "k": unit.k,
        "seed": unit.seed,
    }
    return encode_generated(image, note)
