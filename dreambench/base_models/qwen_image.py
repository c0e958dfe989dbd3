"""Qwen-Image (Qwen team, 2025, arXiv 2508.02324): a transformer that reads Qwen2.5-VL.

Training is that of diffusers' `examples/dreambooth/train_dreambooth_lora_qwen_image.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dreambench.base_models.encodings import Conditioning, EncodedImages, encode_squares
from dreambench.base_models.flow import (
    FlowModel,
    InContextModel,
    pack_patches,
    unpack_patches,
)
from dreambench.base_models.loading import not_here
from dreambench.base_models.spec import BaseModel
from dreambench.config.sampler import Sampler

NO_WORDS = " "
"""What guidance goes away from, as the makers' examples have it."""


class QwenImage(FlowModel):
    """Qwen-Image; its autoencoder is one of videos, and an image a video of one frame."""

    pipeline_class = "QwenImagePipeline"
    tokenizer_class = "Qwen2Tokenizer"
    redrawing_class = "QwenImageImg2ImgPipeline"
    starts_packed = True

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return the language model's states (n, length, d), and where they are text (n, length).

        Each prompt is read by itself, so that none depends on how long the others are.
        """
        found = [
            self.pipeline.encode_prompt([prompt], device=self.device)[0][0].float()
            for prompt in prompts
        ]
        masks = [torch.ones(len(states), dtype=torch.long, device=self.device) for states in found]
        return Conditioning(
            {
                "states": pad_sequence(found, batch_first=True),
                "mask": pad_sequence(masks, batch_first=True),
            }
        )

    def _ask(self, prompts: Sequence[str]) -> dict[str, Any]:
        text, scale = self.encode_prompts(prompts).tensors, self.sampler.guidance_scale
        asked = {
            "prompt_embeds": text["states"], "prompt_embeds_mask": text["mask"],
            "true_cfg_scale": scale,
        }  # fmt: skip
        if scale > 1:
            nothing = self.encode_prompts([NO_WORDS]).repeat(0, len(prompts)).tensors
            asked["negative_prompt_embeds"] = nothing["states"]
            asked["negative_prompt_embeds_mask"] = nothing["mask"]
        return asked

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> EncodedImages:
        """See `LoadedModel`; each channel is normalised with its own statistics."""
        vae = self.pipeline.vae
        mean, std = encode_squares(
            lambda pixels: vae.encode(pixels[:, :, None]), images, self.sampler.size_px, self.device
        )
        middle, spread = (
            torch.tensor(values, device=self.device).view(1, -1, 1, 1)
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        return EncodedImages((mean[:, :, 0] - middle) / spread, std[:, :, 0] / spread, scale=1.0)

    def pack(self, latents: Tensor) -> Tensor:
        """See `LoadedModel`; tokens (n, h w / 4, 4 c)."""
        return pack_patches(latents)

    def unpack(self, held: Tensor) -> Tensor:
        """See `LoadedModel`."""
        return unpack_patches(held)

    def predict(self, noisy: Tensor, times: Tensor, text: Conditioning) -> Tensor:
        """See `FlowModel`."""
        n_rows, _, height, width = noisy.shape
        (found,) = self.pipeline.transformer(
            hidden_states=self.pack(noisy), timestep=times / 1000,
            encoder_hidden_states=text.tensors["states"],
            encoder_hidden_states_mask=text.tensors["mask"],
            img_shapes=[[(1, height // 2, width // 2)]] * n_rows, return_dict=False,
        )  # fmt: skip
        return self.unpack(found)


class QwenImageEdit(QwenImage, InContextModel):
    """Qwen-Image, trained further on photos, which its language model reads besides the text.

    Without photos it generates, and is trained, as Qwen-Image is.
    """

    def __init__(self, model: BaseModel, sampler: Sampler, **options: Any) -> None:
        super().__init__(model, sampler, **options)
        from diffusers import QwenImageEditPlusPipeline  # noqa: PLC0415  (slow import)

        self._editing = QwenImageEditPlusPipeline(
            **self.pipeline.components, processor=_load_processor(model)
        )
        self._editing.set_progress_bar_config(disable=True)

    def sample_in_context(
        self, prompts: Sequence[str], seeds: Sequence[int], *, photos: Sequence[Image.Image]
    ) -> list[Image.Image]:
        """See `InContextModel`; each photo takes a megapixel. Its pipeline takes single prompts."""
        side, found = self.sampler.size_px, []
        for prompt, seed in zip(prompts, seeds, strict=True):
            found += self._run_pipeline(
                self._editing, [prompt], [seed], ask=partial(self._ask_with_photos, photos=photos),
                image=list(photos), height=side, width=side,
            )  # fmt: skip
        return found

    def _ask_with_photos(
        self, prompts: Sequence[str], *, photos: Sequence[Image.Image]
    ) -> dict[str, Any]:
        """Return the states of a prompt that is read with photos, in fp32 (see `_ask`)."""
        from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import (  # noqa: PLC0415
            CONDITION_IMAGE_SIZE,
            calculate_dimensions,
        )

        shown = []
        for photo in photos:
            width, height = calculate_dimensions(CONDITION_IMAGE_SIZE, photo.width / photo.height)
            shown.append(self._editing.image_processor.resize(photo, height, width))
        asked: dict[str, Any] = {"true_cfg_scale": self.sampler.guidance_scale}
        texts = {"": list(prompts)}
        if self.sampler.guidance_scale > 1:
            texts["negative_"] = [NO_WORDS]
        for name, text in texts.items():
            states, _ = self._editing.encode_prompt(text, image=shown, device=self.device)
            asked[f"{name}prompt_embeds"] = states.float()
            # All of a single text is text; without a mask the pipeline would warn.
            asked[f"{name}prompt_embeds_mask"] = torch.ones(
                states.shape[:2], dtype=torch.long, device=self.device
            )
        return asked


def _load_processor(model: BaseModel) -> Any:
    """Load what prepares texts with photos for the language model."""
    import transformers  # noqa: PLC0415  (slow import)

    try:
        return transformers.Qwen2VLProcessor.from_pretrained(
            model.location, subfolder="processor", revision=model.revision
        )
    # Of a folder whose files are not valid, libraries make any kind of exception.
    except Exception as error:
        if not (model.is_local or isinstance(error, OSError)):
            raise
        raise not_here(model, "processor of", error) from error
