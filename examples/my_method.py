"""A method in one file: dreambench run --method examples/my_method.py:MyMethod"""

import torch
from diffusers import StableDiffusionImg2ImgPipeline

from dreambench.methods import Method, Settings, load_photo


class MyMethod(Method):
    """A photo under noise, generated again with the prompt (SDEdit, Meng et al., ICLR 2022)."""

    class Settings(Settings):
        strength: float = 0.8

    def load(self, subject, out_dir):
        self.model = self.context.load_base_model()
        self.pipeline = StableDiffusionImg2ImgPipeline.from_pipe(self.model.pipeline)
        self.pipeline.set_progress_bar_config(disable=True)
        self.noun, size_px = subject.class_name, self.context.sampler.size_px
        self.photos = [load_photo(path, size_px=size_px) for path in subject.photos]
        return self

    def generate(self, prompts, seeds):
        with self.model.autocast():
            return self.pipeline(
                prompt=[prompt.replace("{subject}", self.noun) for prompt in prompts],
                image=[self.photos[seed % len(self.photos)] for seed in seeds],
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                strength=self.settings.strength,
                num_inference_steps=self.context.sampler.n_steps,
                guidance_scale=self.context.sampler.guidance_scale,
            ).images
