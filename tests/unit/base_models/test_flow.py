"""Families trained by flow matching: losses are those of diffusers' scripts, images of pipelines.

The losses are computed here once more, from the photos on and without the package, as
`examples/dreambooth/train_dreambooth_lora_*.py` of diffusers (at 58eb52c) compute them.
"""

import json
import shutil

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from script_steps import CLASS, PRIOR_WEIGHT, SEED, SUBJECT, take_step
from small_flows import SIDE_PX
from small_pipelines import NUMBERS, Heard, pixels, subjects
from transformers import Qwen2Tokenizer

from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.base_models.lora import LORA_FILE
from dreambench.base_models.registry import find_base_model, load_base_model
from dreambench.config.protocol import load_protocol
from dreambench.config.sampler import Sampler
from dreambench.errors import UserError
from dreambench.methods.base import Context
from dreambench.methods.finetuning.dreambooth import DreamBooth, DreamBoothSettings
from dreambench.methods.finetuning.dreambooth_lora import DreamBoothLora, DreamBoothLoraSettings
from dreambench.methods.finetuning.identifier import choose_identifier, find_rare_tokens

SAMPLER = Sampler(scheduler="flow-euler", n_steps=3, guidance_scale=4.0, size_px=SIDE_PX)


@pytest.fixture
def base_of(folder_of):
    return lambda name: find_base_model(f"{name}={folder_of(name)}")


def photos(n=4):
    rng = np.random.default_rng(1)
    return [
        Image.fromarray(rng.integers(0, 256, (SIDE_PX,) * 2 + (3,), np.uint8)) for _ in range(n)
    ]


def to_pixels(images):
    found = [torch.from_numpy(np.asarray(image, np.float32) / 127.5 - 1) for image in images]
    return torch.stack(found).permute(0, 3, 1, 2)


def load_pipeline(name, folder, **options):
    """The pipeline of diffusers alone; an editor's folder is read as that of a generator."""
    kind = "QwenImagePipeline" if name == "qwen-image-edit" else "DiffusionPipeline"
    pipeline = getattr(diffusers, kind).from_pretrained(folder, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class Script:
    """What diffusers' scripts have in common: a time and noise a row, and the two losses."""

    def __init__(self, name, folder, noise):
        self.pipeline = load_pipeline(name, folder)
        self.noise = noise
        self.scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(
            folder, subfolder="scheduler"
        )

    def draw(self, latents, *, logit_normal=False):
        noise = torch.randn(latents.shape, generator=self.noise)
        if logit_normal:
            share = torch.sigmoid(torch.normal(0.0, 1.0, (len(latents),), generator=self.noise))
        else:
            share = torch.rand(len(latents), generator=self.noise)
        times = self.scheduler.timesteps[(share * 1000).long()]
        places = [(self.scheduler.timesteps == time).nonzero().item() for time in times]
        sigmas = self.scheduler.sigmas[places].reshape(-1, *[1] * (latents.ndim - 1))
        self.sigmas = sigmas
        return noise, times, (1.0 - sigmas) * latents + sigmas * noise

    def join(self, found, target):
        found, found_prior = found.chunk(2)
        target, target_prior = target.chunk(2)
        loss = ((found - target) ** 2).reshape(len(target), -1).mean(1).mean()
        prior = ((found_prior - target_prior) ** 2).reshape(len(target), -1).mean(1).mean()
        return loss + PRIOR_WEIGHT * prior


def patch(latents):
    """Squares of 2 x 2 places as channels."""
    n, c, h, w = latents.shape
    cut = latents.view(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4)
    return cut.reshape(n, 4 * c, h // 2, w // 2)


class Flux2Script(Script):
    def loss(self, images, posterior):
        vae, transformer = self.pipeline.vae, self.pipeline.transformer
        with torch.no_grad():
            latents = patch(vae.encode(images).latent_dist.mode())
        middle = vae.bn.running_mean.view(1, -1, 1, 1)
        spread = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps)
        latents = (latents - middle) / spread
        noise, times, noisy = self.draw(latents)
        n, c, h, w = latents.shape
        with torch.no_grad():
            states, text_ids = self.pipeline.encode_prompt([SUBJECT, CLASS])
        ids = torch.cartesian_prod(
            torch.arange(1), torch.arange(h), torch.arange(w), torch.arange(1)
        )
        found = transformer(
            hidden_states=noisy.reshape(n, c, h * w).permute(0, 2, 1), timestep=times / 1000,
            guidance=None, encoder_hidden_states=states.repeat_interleave(n // 2, dim=0),
            txt_ids=text_ids.repeat_interleave(n // 2, dim=0),
            img_ids=ids.unsqueeze(0).expand(n, -1, -1), return_dict=False,
        )[0]  # fmt: skip
        return self.join(found.permute(0, 2, 1).reshape(n, c, h, w), noise - latents)


class FluxScript(Script):
    samples_posterior = True

    def loss(self, images, posterior):
        vae, transformer, pipeline = self.pipeline.vae, self.pipeline.transformer, self.pipeline
        with torch.no_grad():
            found = vae.encode(images).latent_dist
            latents = found.mean + found.std * posterior if self.samples_posterior else found.mode()
            states, pooled, text_ids = pipeline.encode_prompt([SUBJECT, CLASS], None)
        latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
        noise, times, noisy = self.draw(latents)
        n, c, h, w = latents.shape
        packed = noisy.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
        image_ids = torch.zeros(h // 2, w // 2, 3)
        image_ids[..., 1] += torch.arange(h // 2)[:, None]
        image_ids[..., 2] += torch.arange(w // 2)[None, :]
        guidance = torch.ones(n) if transformer.config.guidance_embeds else None
        found = transformer(
            hidden_states=packed.reshape(n, h * w // 4, 4 * c), timestep=times / 1000,
            guidance=guidance, pooled_projections=pooled.repeat_interleave(n // 2, dim=0),
            encoder_hidden_states=states.repeat_interleave(n // 2, dim=0), txt_ids=text_ids,
            img_ids=image_ids.reshape(-1, 3), return_dict=False,
        )[0]  # fmt: skip
        found = found.view(n, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return self.join(found.reshape(n, c, h, w), noise - latents)


class KontextScript(FluxScript):
    samples_posterior = False


class SD3Script(Script):
    def loss(self, images, posterior):
        vae, transformer = self.pipeline.vae, self.pipeline.transformer
        with torch.no_grad():
            found = vae.encode(images).latent_dist
            states, _, pooled, _ = self.pipeline.encode_prompt([SUBJECT, CLASS], None, None)
        latents = found.mean + found.std * posterior
        latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
        _, times, noisy = self.draw(latents, logit_normal=True)
        n = len(latents)
        found = transformer(
            hidden_states=noisy, timestep=times,
            encoder_hidden_states=states.repeat_interleave(n // 2, dim=0),
            pooled_projections=pooled.repeat_interleave(n // 2, dim=0), return_dict=False,
        )[0]  # fmt: skip
        # `--precondition_outputs` is 1 where it is not said.
        return self.join(found * (-self.sigmas) + noisy, latents)


class QwenScript(Script):
    def loss(self, images, posterior):
        vae, transformer = self.pipeline.vae, self.pipeline.transformer
        with torch.no_grad():
            found = vae.encode(images.unsqueeze(2)).latent_dist
            pairs = [self.pipeline.encode_prompt(text)[0] for text in (SUBJECT, CLASS)]
        middle = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
        spread = 1.0 / torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
        latents = (found.mean + found.std * posterior.unsqueeze(2) - middle) * spread
        # `EncodedImages` has no frames; the script's noise is of the same numbers with one.
        noise, times, noisy = self.draw(latents)
        n, c, _, h, w = latents.shape
        longest = max(states.shape[1] for states in pairs)
        padded = [torch.nn.functional.pad(s, (0, 0, 0, longest - s.shape[1])) for s in pairs]
        masks = [torch.arange(longest)[None] < states.shape[1] for states in pairs]
        packed = noisy.permute(0, 2, 1, 3, 4).reshape(n, c, h // 2, 2, w // 2, 2)
        found = transformer(
            hidden_states=packed.permute(0, 2, 4, 1, 3, 5).reshape(n, h * w // 4, 4 * c),
            encoder_hidden_states=torch.cat(padded).repeat_interleave(n // 2, dim=0),
            encoder_hidden_states_mask=torch.cat(masks).repeat_interleave(n // 2, dim=0),
            timestep=times / 1000, img_shapes=[[(1, h // 2, w // 2)]] * n, return_dict=False,
        )[0]  # fmt: skip
        found = found.view(n, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return self.join(found.reshape(n, c, 1, h, w), noise - latents)


SCRIPTS = {
    "flux2-klein-base": Flux2Script,
    "flux-dev": FluxScript,
    "flux-schnell": FluxScript,
    "flux-kontext": KontextScript,
    "sd35-medium": SD3Script,
    "qwen-image": QwenScript,
    "qwen-image-edit": QwenScript,
}


def gradients(network):
    return {key: weight.grad for key, weight in network.named_parameters()}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_step_is_that_of_the_script_with_prior_preservation(name, base_of, folder_of):
    model = load_base_model(base_of(name), SAMPLER)
    images = photos()
    ours, network, encoded = take_step(model, images)

    noise = torch.Generator().manual_seed(SEED)
    posterior = torch.randn(encoded.mean.shape, generator=noise)
    script = SCRIPTS[name](name, folder_of(name), noise)
    script.pipeline.transformer.requires_grad_(True)
    theirs = script.loss(to_pixels(images), posterior)
    theirs.backward()
    assert torch.allclose(ours, theirs, rtol=1e-6, atol=0)
    wanted = gradients(script.pipeline.transformer)
    found = gradients(network)
    size = torch.cat([g.flatten() for g in wanted.values() if g is not None]).norm()
    assert size > 0.01
    for key, value in wanted.items():
        assert (value is None) == (found[key] is None), key
        if value is not None:
            assert (found[key] - value).norm() <= 1e-6 * size, key


def call(pipeline, prompts, seeds, **options):
    noise = [torch.Generator().manual_seed(seed) for seed in seeds]
    guidance = {"guidance_scale": SAMPLER.guidance_scale}
    if isinstance(pipeline, diffusers.FluxKontextPipeline):
        guidance["max_area"] = SIDE_PX**2
    if type(pipeline).__name__.startswith("Qwen"):
        guidance = {
            "true_cfg_scale": SAMPLER.guidance_scale, "negative_prompt": [" "] * len(prompts)
        }  # fmt: skip
    return pipeline(
        prompt=prompts, num_inference_steps=SAMPLER.n_steps, generator=noise, output_type="pil",
        height=SIDE_PX, width=SIDE_PX, **guidance, **options,
    ).images  # fmt: skip


COLOURS = ("red", "green")
PROMPTS, SEEDS = ["a dog on the beach", "a red mug"], [3, 4]


@pytest.mark.parametrize("name", SCRIPTS)
def test_images_are_those_of_the_pipeline_called_directly(name, base_of, folder_of):
    model = load_base_model(base_of(name), SAMPLER)
    theirs = load_pipeline(name, folder_of(name))
    found = pixels(model.sample(PROMPTS, SEEDS))
    assert np.array_equal(found, pixels(call(theirs, PROMPTS, SEEDS)))
    assert not np.array_equal(found[0], found[1])
    assert found.shape == (2, SIDE_PX, SIDE_PX, 3) and found.std() > 1


@pytest.mark.parametrize("name", sorted(SCRIPTS.keys() - {"flux2-klein-base"}))
def test_redrawing_is_that_of_the_pipeline_called_directly(name, base_of, folder_of):
    model = load_base_model(base_of(name), SAMPLER)
    images = [Image.new("RGB", (SIDE_PX, SIDE_PX), colour) for colour in COLOURS]
    kind = getattr(diffusers, type(model).redrawing_class)
    theirs = kind.from_pipe(load_pipeline(name, folder_of(name)))
    theirs.set_progress_bar_config(disable=True)
    wanted = pixels(call(theirs, PROMPTS, SEEDS, image=images, strength=0.4))
    found = pixels(model.redraw(PROMPTS, SEEDS, images=images, strength=0.4))
    assert np.array_equal(found, wanted)
    again = pixels(model.redraw(PROMPTS, SEEDS, images=images[::-1], strength=0.4))
    assert not np.array_equal(found, again)


def test_what_a_family_does_not_have_is_refused_in_one_line(base_of):
    klein = load_base_model(base_of("flux2-klein-base"), SAMPLER)
    for work in (
        lambda: klein.redraw(PROMPTS, SEEDS, images=photos(2), strength=0.5),
        lambda: klein.trainable_networks(with_text_encoders=True),
    ):
        with pytest.raises(UserError) as caught:
            work()
        assert caught.value.code == "unsupported-base-model"
        assert "'flux2-klein-base'" in caught.value.problem


def test_text_encoders_are_trained_that_the_scripts_train(base_of):
    for name, wanted in (
        ("flux-dev", {"transformer", "text_encoder"}),
        ("sd35-medium", {"transformer", "text_encoder", "text_encoder_2"}),
    ):
        model = load_base_model(base_of(name), SAMPLER)
        model.freeze()
        networks = model.trainable_networks(with_text_encoders=True)
        assert set(networks) == wanted
        for network in networks.values():
            network.requires_grad_(True)
        text = model.encode_prompts([SUBJECT])
        latents = model.encode_images(photos(1)).means()
        model.squared_errors(
            latents, text, noise=torch.Generator().manual_seed(0)
        ).mean().backward()
        for part in wanted:
            assert any(g is not None and g.any() for g in gradients(networks[part]).values()), part


def test_the_rare_token_of_a_vocabulary_of_bytes_is_found(folder_of):
    tokenizer = Qwen2Tokenizer.from_pretrained(folder_of("flux2-klein-base") / "tokenizer")
    assert find_rare_tokens(tokenizer) == ["zbx"]
    assert choose_identifier(tokenizer, "auto") == "zbx"


@pytest.mark.parametrize("name", SCRIPTS)
def test_latents_are_the_same_in_the_middle_of_drawing_as_outside(name, base_of):
    model = load_base_model(base_of(name), SAMPLER)
    (c, h, w), seen = model.encode_images(photos(1)).mean.shape[1:], []
    assert h == w == SIDE_PX // model.cell_px
    noise = [torch.randn((1, c, h, w), generator=torch.Generator().manual_seed(s)) for s in SEEDS]

    def keep(step, latents):
        seen.append(latents)
        return latents

    start = torch.cat(noise)
    found = model.sample(PROMPTS, SEEDS, start=start, after_step=keep)
    assert len(seen) == SAMPLER.n_steps
    assert {latents.shape for latents in seen} == {(2, c, h, w)}
    assert np.array_equal(pixels(found), pixels(model.sample(PROMPTS, SEEDS, after_step=keep)))
    clean = seen[-1]
    assert torch.equal(model.add_noise(clean, start, step=SAMPLER.n_steps - 1), clean)
    assert not torch.equal(model.add_noise(clean, start, step=0), clean)


WITH_TEXT_ENCODERS = {"flux-dev": 1, "sd35-medium": 2}


@pytest.mark.parametrize("name", SCRIPTS)
def test_adapters_are_saved_as_the_pipeline_reads_them(name, base_of, folder_of, tmp_path):
    numbers = {"rank": 3, "learning_rate": 1e-1, "train_text_encoder": name in WITH_TEXT_ENCODERS}
    settings = DreamBoothLoraSettings(**NUMBERS | numbers)
    context = Context(
        base_model=base_of(name), sampler=SAMPLER, device="cpu", precision="fp32", batch_size=2,
        cache_dir=tmp_path / "cache", progress=Heard(),
    )  # fmt: skip
    method = DreamBoothLora(settings, context)
    (dog,) = subjects("dog")
    (tmp_path / "out").mkdir()
    method.fit(dog, tmp_path / "out", seed=5)
    found = pixels(method.load(dog, tmp_path / "out").generate(PROMPTS, SEEDS))
    theirs = load_pipeline(name, folder_of(name))
    before = pixels(call(theirs, PROMPTS, SEEDS))
    theirs.load_lora_weights(tmp_path / "out")
    adapted = {key.split(".")[0] for key in load_file(tmp_path / "out" / LORA_FILE)}
    assert len(adapted) == 1 + WITH_TEXT_ENCODERS.get(name, 0)
    assert np.array_equal(found, pixels(call(theirs, PROMPTS, SEEDS)))
    assert not np.array_equal(found, before)


@pytest.mark.parametrize("name", SCRIPTS)
def test_in_bf16_noise_and_latents_stay_fp32(name, base_of):
    seen = []
    model = load_base_model(base_of(name), SAMPLER, precision="bf16")

    def keep(step, latents):
        seen.append(latents.dtype)
        return latents

    images = model.sample(PROMPTS, SEEDS, after_step=keep)
    if model.redrawing_class is not None:
        model.redraw(PROMPTS, SEEDS, images=photos(2), strength=0.4)
    exact = load_base_model(base_of(name), SAMPLER).sample(PROMPTS, SEEDS)
    assert set(seen) == {torch.float32}
    gap = np.abs(pixels(images).astype(int) - pixels(exact).astype(int)).mean()
    assert 0 < gap < 16
    for part in model.rounded_networks:
        dtypes = {weight.dtype for weight in getattr(model.pipeline, part).parameters()}
        assert dtypes == {torch.bfloat16}


@pytest.mark.parametrize("name", ["flux2-klein-base", "sd35-medium"])
def test_in_bf16_what_trains_is_fp32_and_the_rest_is_not(name, base_of, tmp_path):
    numbers = {"gradient_checkpointing": True, "train_text_encoder": name in WITH_TEXT_ENCODERS}
    context = Context(
        base_model=base_of(name), sampler=SAMPLER, device="cpu", precision="bf16", batch_size=2,
        cache_dir=tmp_path / "cache", progress=Heard(),
    )  # fmt: skip
    method = DreamBooth(DreamBoothSettings(**NUMBERS | numbers), context)
    (dog,) = subjects("dog")
    (tmp_path / "out").mkdir()
    method.fit(dog, tmp_path / "out", seed=5)
    for part in method.model.rounded_networks:
        wanted = torch.float32 if part in method.trained else torch.bfloat16
        network = getattr(method.model.pipeline, part)
        assert {weight.dtype for weight in network.parameters()} == {wanted}, part
    assert len(method.load(dog, tmp_path / "out").generate(PROMPTS, SEEDS)) == 2
    saved = {path.stem for path in (tmp_path / "out").glob("*.safetensors")}
    assert saved == set(method.trained) and "transformer" in saved


@pytest.mark.parametrize("name", SCRIPTS)
def test_in_bf16_texts_are_read_as_the_pipeline_in_bf16_reads_them(name, base_of, folder_of):
    # What a network computes for itself, such as the angles of its places, is not rounded.
    model = load_base_model(base_of(name), SAMPLER, precision="bf16")
    theirs = load_pipeline(name, folder_of(name), dtype=torch.bfloat16)
    with torch.no_grad():
        found = model.encode_prompts([SUBJECT]).tensors["states"]
        words = (None, None) if name == "sd35-medium" else (None,) if "flux-" in name else ()
        wanted = theirs.encode_prompt([SUBJECT], *words)[0]
    assert found.dtype == torch.float32 and wanted.dtype == torch.bfloat16
    assert torch.equal(found, wanted.float())


def test_a_protocol_of_diffusion_gives_a_flow_model_its_makers_sampler():
    klein = BASE_MODELS["flux2-klein-base"]
    found = klein.choose_sampler(load_protocol("dreambench").sampler)
    assert (found.scheduler, found.n_steps, found.guidance_scale) == ("flow-euler", 50, 4.0)
    assert found.size_px == 1024 and klein.count_calls(found) == 100
    assert klein.choose_sampler(load_protocol("mini").sampler).size_px == 64
    assert klein.choose_sampler(SAMPLER) == SAMPLER
    assert BASE_MODELS["flux2-klein"].count_calls(SAMPLER) == SAMPLER.n_steps


def test_samplers_that_a_base_model_cannot_have_are_refused():
    for name, sampler, code in (
        ("sd15", SAMPLER, "unsupported-base-model"),
        ("flux2-klein", SAMPLER.model_copy(update={"size_px": 72}), "invalid-value"),
    ):
        with pytest.raises(UserError) as caught:
            BASE_MODELS[name].choose_sampler(sampler)
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("flux2-klein", "flux2-klein-base"),
        ("flux-dev", "flux-schnell"),
        ("flux-schnell", "flux-dev"),
    ],
)
def test_weights_of_another_model_of_the_family_are_refused_at_once(named, found, folder_of):
    with pytest.raises(UserError, match=f"not those of '{named}'") as caught:
        find_base_model(f"{named}={folder_of(found)}")
    assert caught.value.code == "not-a-base-model"
    find_base_model(f"{found}={folder_of(found)}")


def test_a_scheduler_of_diffusion_is_refused(folder_of, tmp_path):
    folder = shutil.copytree(folder_of("flux2-klein-base"), tmp_path / "pipeline")
    diffusers.DDPMScheduler().save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "DDPMScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError) as caught:
        load_base_model(find_base_model(f"flux2-klein-base={folder}"), SAMPLER)
    assert caught.value.code == "unsupported-base-model"
    assert "DDPMScheduler" in caught.value.problem
