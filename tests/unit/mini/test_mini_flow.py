"""mini-flow: a folder that diffusers loads, and training that is its pipeline's, resumable."""

import sys
from functools import partial

import diffusers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from small_pipelines import pixels
from small_world import make_world

from dreambench.base_models.catalogue import BASE_MODELS, TRAINED_HERE
from dreambench.base_models.flux2 import MiniFlow
from dreambench.base_models.registry import find_base_model, load_base_model
from dreambench.config.sampler import Sampler
from dreambench.errors import UserError
from dreambench.methods.finetuning.identifier import choose_identifier
from dreambench.mini.training import install
from dreambench.mini.training.base_model import load_latents
from dreambench.mini.training.data import (
    SHOTS_PER_IDENTITY,
    make_identity,
)
from dreambench.mini.training.flow_model import Examples, compute_loss, make_flow
from dreambench.mini.training.judge import LABELS, Judge, draw_shots, load_judge
from dreambench.mini.training.loop import hold_then_fall, train
from dreambench.mini.world.bodies import CLASSES, LIVE
from dreambench.mini.world.renderer import VIEWS, Shot

SAMPLER = Sampler(scheduler="flow-euler", n_steps=2, guidance_scale=3.0, size_px=64)
PROMPTS, SEEDS = ["a dog on the beach", "a red mug"], [3, 4]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def vae():
    found = diffusers.AutoencoderKL.from_pretrained(BASE_MODELS["mini"].location, subfolder="vae")
    return found.float()


@pytest.fixture(scope="module")
def examples(world, vae, tmp_path_factory):
    return Examples(world, load_latents(world, vae, tmp_path_factory.mktemp("cache") / "l.npy"))


@pytest.fixture(scope="module")
def flow(vae, examples):
    """Small random networks: as they begin, they would predict no flow at all."""
    made = make_flow(vae, examples.latents, width=64, n_double=1, n_single=1)
    for weight in made.transformer.parameters():
        weight.data += 0.05 * torch.randn(weight.shape)
    return made


def test_diffusers_draws_from_the_folder_what_the_base_model_does(flow, world, tmp_path):
    flow.save(tmp_path / "flow")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "flow", dtype=torch.float32)
    assert type(pipeline) is diffusers.Flux2KleinPipeline
    model = load_base_model(find_base_model(f"mini-flow={tmp_path / 'flow'}"), SAMPLER)
    assert isinstance(model, MiniFlow)
    photos = [Image.fromarray(world.images[row]) for row in (0, 1)]
    for shown in ([], photos[:1], photos):
        noise = [torch.Generator().manual_seed(seed) for seed in SEEDS]
        wanted = pipeline(
            image=shown or None, prompt=PROMPTS, generator=noise, height=64, width=64,
            num_inference_steps=2, guidance_scale=3.0, **MiniFlow.text_options,
        ).images  # fmt: skip
        found = (
            model.sample_in_context(PROMPTS, SEEDS, photos=shown)
            if shown
            else model.sample(PROMPTS, SEEDS)
        )
        assert np.array_equal(pixels(found), pixels(wanted))
    weights = flow.transformer.state_dict()
    for name, value in pipeline.transformer.state_dict().items():
        assert torch.equal(value, weights[name].half().float())
    # The tokenizer has words that no caption has, for DreamBooth.
    assert len(choose_identifier(pipeline.tokenizer, "auto")) == 3


def test_latents_are_those_that_the_pipeline_makes_of_the_photos(flow, world, examples):
    rows = np.arange(6)
    pipeline = diffusers.Flux2KleinPipeline(
        flow.schedule, flow.vae, flow.text_encoder, flow.tokenizer, flow.transformer
    )
    shown = torch.from_numpy(world.images[rows]).permute(0, 3, 1, 2) / 127.5 - 1
    wanted = pipeline._encode_vae_image(shown, None)
    found = flow.normalize(examples.latents[rows])
    assert torch.allclose(found, wanted, atol=0.01) and wanted.std() > 0.5
    assert found.mean().abs() < 0.5 and 0.5 < found.std() < 1.5


def test_a_step_is_that_of_the_schedulers_and_transformers_own_calls(flow, examples):
    n_rows = 3
    rows, shown = examples.draw(n_rows, 2, np.random.default_rng(1))
    clean = flow.normalize(examples.latents[rows])
    photos = [flow.normalize(examples.latents[one]) for one in shown]
    texts = [*PROMPTS, ""]
    errors = flow.squared_errors(clean, photos, flow.read(texts), torch.Generator().manual_seed(5))
    errors.mean().backward()
    made = {name: value.grad for name, value in flow.trained().named_parameters()}

    flow.trained().zero_grad()
    pipeline = diffusers.Flux2KleinPipeline(
        flow.schedule, flow.vae, flow.text_encoder, flow.tokenizer, flow.transformer
    )
    noise = torch.Generator().manual_seed(5)
    eps = torch.randn(clean.shape, generator=noise)
    share = torch.sigmoid(torch.normal(0.0, 1.0, (n_rows,), generator=noise))
    schedule = diffusers.FlowMatchEulerDiscreteScheduler()
    times = schedule.timesteps[(share * 1000).long()]
    tokens = [pipeline._pack_latents(schedule.scale_noise(clean, times, eps))]
    tokens += [pipeline._pack_latents(photo) for photo in photos]
    states, text_places = pipeline.encode_prompt(texts, **MiniFlow.text_options)
    places = pipeline._prepare_image_ids([photo[:1] for photo in photos]).repeat(n_rows, 1, 1)
    found = flow.transformer(
        hidden_states=torch.cat(tokens, 1), timestep=times / 1000, encoder_hidden_states=states,
        img_ids=torch.cat([pipeline._prepare_latent_ids(clean), places], 1), txt_ids=text_places,
    ).sample[:, :64]  # fmt: skip
    loss = F.mse_loss(found, pipeline._pack_latents(eps - clean))
    loss.backward()
    assert torch.allclose(errors.mean(), loss, atol=1e-6)
    assert {"transformer.x_embedder.weight", "text_encoder.model.embed_tokens.weight"} <= {*made}
    for name, value in flow.trained().named_parameters():
        assert torch.allclose(made[name], value.grad, atol=1e-6), name


def test_images_are_shown_other_photos_of_their_own_individual(examples):
    for n_photos in (0, 1, 2):
        rows, shown = examples.draw(5, n_photos, np.random.default_rng(2))
        assert shown.shape == (n_photos, 5)
        for photo in shown:
            assert not (photo == rows).any()
            assert (photo // SHOTS_PER_IDENTITY == rows // SHOTS_PER_IDENTITY).all()
            kinds = [examples.data.shots[row] for row in photo]
            assert all(kind.style is None and kind.property_name is None for kind in kinds)
        assert n_photos < 2 or not (shown[0] == shown[1]).any()


def test_training_that_was_cut_ends_with_the_same_weights(flow, examples, tmp_path):
    start = {name: value.clone() for name, value in flow.trained().state_dict().items()}
    seen = []

    def go(folder, **options):
        flow.trained().load_state_dict(start)
        train(
            flow.trained(), partial(compute_loss, flow, examples, 16), out_dir=tmp_path / folder,
            seed=1, n_steps=3, learning_rate=1e-3, n_warmup_steps=2, schedule=hold_then_fall,
            log_every=1, **options,
        )  # fmt: skip
        return {name: value.clone() for name, value in flow.trained().state_dict().items()}

    whole = go("whole", show=seen.append, show_every=2)
    assert seen == [2]
    for _ in range(3):
        parts = go("parts", n_seconds=0)
    log = (tmp_path / "parts" / "log.jsonl").read_text()
    assert log.count("subject-2") == 3
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name
    changed = "transformer.x_embedder.weight"
    assert not torch.equal(whole[changed], start[changed])


def test_it_is_a_base_model_once_its_weights_are_here():
    assert ("mini-flow" in BASE_MODELS) == TRAINED_HERE["mini-flow"].is_local
    if not TRAINED_HERE["mini-flow"].is_local:
        with pytest.raises(UserError) as caught:
            find_base_model("mini-flow")
        assert caught.value.code == "unknown-name"


def test_the_judge_counts_labels_of_a_kind(tmp_path):
    judge = Judge()
    for kind, place in (("view", 2), ("accessory", 0)):
        judge.heads[kind].bias.data[place] = 100
    save_file(judge.state_dict(), tmp_path / "model.safetensors")
    dog = make_identity("heldout", 0)
    shots = [Shot(dog, 1, view=view) for view in (*VIEWS, None)]
    images = [Image.new("RGB", (64, 64)) for _ in shots]
    found = load_judge(tmp_path)
    assert found.share_found(images, shots, "view") == pytest.approx(1 / 5)
    assert found.share_found(images, shots, "accessory") == 1
    assert found.share_found(images[1:2], [Shot(dog, 1, view=[*VIEWS][1])], "view") == 1


def test_the_judge_learns_each_label_as_often_and_accessories_of_the_living():
    rng = np.random.default_rng(1)
    for kind, labels in LABELS.items():
        drawn = draw_shots(kind, 200, rng, split="train", n_identities=100)
        counts = [sum(getattr(shot, kind) == label for shot in drawn) for label in labels]
        assert sum(counts) == 200 and min(counts) > 100 / len(labels)
        classes = {shot.identity.class_name for shot in drawn}
        assert classes == {*(LIVE if kind == "accessory" else CLASSES)}


def test_its_weights_are_installed_beside_the_others_within_the_limit(tmp_path, monkeypatch):
    made, weights = tmp_path / "made", tmp_path / "weights"
    for path in (made / "transformer" / "config.json", made / "tokenizer" / "tokenizer.json"):
        path.parent.mkdir(parents=True)
        path.write_text('{"_name_or_path": "/home/me", "a": 1}')
    (weights / "vit").mkdir(parents=True)
    (weights / "vit" / "model.safetensors").write_bytes(bytes(100))
    monkeypatch.setattr(install, "WEIGHTS_DIR", weights)
    monkeypatch.setattr(sys, "argv", ["install", "--flow", str(made)])
    monkeypatch.setattr(install, "MAX_BYTES", 120)
    with pytest.raises(SystemExit):
        install.main()
    assert [path.name for path in weights.iterdir()] == ["vit"]
    monkeypatch.setattr(install, "MAX_BYTES", 1000)
    install.main()
    assert (weights / "vit" / "model.safetensors").stat().st_size == 100
    assert "_name_or_path" not in (weights / "flow" / "transformer" / "config.json").read_text()
