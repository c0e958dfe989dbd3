"""Counts what models of flow matching hold at their sizes, on tensors without content.

`python benchmarks/full_size.py --count` prints it. The sizes are those of the models' config files
on the hub, as diffusers' defaults and its conversion scripts have them.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    OmniGenTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
)
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
)

from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.base_models.registry import find_family

BLOCK = re.compile(r"(.*transformer_blocks|layers)\.\d+")
"""What gradient checkpointing makes anew at once."""
SIDE = 128
"""Places of an autoencoder's latents along a side of 1024 px."""


def make_clip(kind: type[nn.Module], **sizes: int) -> nn.Module:
    """CLIP's text encoder; ViT-L/14's sizes where others are not said."""
    large = {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "projection_dim": 768,
    }  # fmt: skip
    return kind(CLIPTextConfig(**large | sizes))


def make_t5() -> nn.Module:
    """The encoder of T5 1.1 XXL."""
    return T5EncoderModel(
        T5Config(
            vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
            feed_forward_proj="gated-gelu",
        )
    )  # fmt: skip


def make_vae() -> nn.Module:
    """The autoencoder of FLUX.1 and Stable Diffusion 3."""
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=16,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip


def make_flux2() -> dict[str, nn.Module]:
    """FLUX.2 [klein] 4B, which reads Qwen3 4B."""
    return {
        "transformer": Flux2Transformer2DModel(
            num_layers=5, num_single_layers=20, num_attention_heads=24, joint_attention_dim=7680,
            guidance_embeds=False,
        ),
        "vae": AutoencoderKLFlux2(),
        "text_encoder": Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=151936, hidden_size=2560, intermediate_size=9728, num_hidden_layers=36,
                num_attention_heads=32, num_key_value_heads=8, head_dim=128,
                tie_word_embeddings=True,
            )
        ),
    }  # fmt: skip


def make_flux(*, guidance_embeds: bool = True) -> dict[str, nn.Module]:
    """FLUX.1."""
    return {
        "transformer": FluxTransformer2DModel(guidance_embeds=guidance_embeds),
        "vae": make_vae(),
        "text_encoder": make_clip(CLIPTextModel),
        "text_encoder_2": make_t5(),
    }


def make_sd3() -> dict[str, nn.Module]:
    """Stable Diffusion 3.5 medium."""
    return {
        "transformer": SD3Transformer2DModel(
            num_layers=24, attention_head_dim=64, num_attention_heads=24,
            caption_projection_dim=1536, pos_embed_max_size=384, qk_norm="rms_norm",
            dual_attention_layers=tuple(range(13)),
        ),
        "vae": make_vae(),
        "text_encoder": make_clip(CLIPTextModelWithProjection),
        "text_encoder_2": make_clip(
            CLIPTextModelWithProjection, hidden_size=1280, intermediate_size=5120,
            num_hidden_layers=32, num_attention_heads=20, projection_dim=1280,
        ),
        "text_encoder_3": make_t5(),
    }  # fmt: skip


def make_qwen() -> dict[str, nn.Module]:
    """Qwen-Image, which reads Qwen2.5-VL 7B."""
    text = {
        "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944,
        "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    }  # fmt: skip
    vision = {
        "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
        "out_hidden_size": 3584,
    }  # fmt: skip
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)
    return {
        "transformer": QwenImageTransformer2DModel(),
        "vae": AutoencoderKLQwenImage(),
        "text_encoder": Qwen2_5_VLForConditionalGeneration(config),
    }


def make_omnigen() -> dict[str, nn.Module]:
    """OmniGen, which reads words itself."""
    factors = {"short_factor": [1.0] * 48, "long_factor": [1.0] * 48}
    return {
        "transformer": OmniGenTransformer2DModel(rope_scaling=factors),
        "vae": AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ),
    }  # fmt: skip


MAKERS = {
    "flux2-klein-base": make_flux2,
    "flux-dev": make_flux,
    "flux-schnell": lambda: make_flux(guidance_embeds=False),
    "flux-kontext": make_flux,
    "sd35-medium": make_sd3,
    "qwen-image": make_qwen,
    "omnigen": make_omnigen,
}
"""Networks by the name of a base model; distilled ones and editors have those of their bases."""


def call(name: str, transformer: nn.Module) -> torch.Tensor:
    """One call of a transformer on the latents of one image of 1024 px and the longest text."""
    times = torch.zeros(1)
    tokens = torch.randn(1, SIDE**2 // 4, 64)
    if name.startswith("flux2"):
        side = SIDE // 2
        arange = torch.arange
        ids = torch.cartesian_prod(arange(1), arange(side), arange(side), arange(1))[None]
        words = torch.cartesian_prod(arange(1), arange(1), arange(1), arange(512))[None]
        found = transformer(
            hidden_states=torch.randn(1, side**2, 128), timestep=times,
            encoder_hidden_states=torch.randn(1, 512, 7680), img_ids=ids, txt_ids=words,
        )  # fmt: skip
    elif name.startswith("flux"):
        found = transformer(
            hidden_states=tokens, timestep=times,
            guidance=times if transformer.config.guidance_embeds else None,
            pooled_projections=torch.randn(1, 768),
            encoder_hidden_states=torch.randn(1, 512, 4096), txt_ids=torch.zeros(512, 3),
            img_ids=torch.zeros(tokens.shape[1], 3),
        )  # fmt: skip
    elif name.startswith("sd3"):
        found = transformer(
            hidden_states=torch.randn(1, 16, SIDE, SIDE), timestep=times,
            encoder_hidden_states=torch.randn(1, 333, 4096),
            pooled_projections=torch.randn(1, 2048),
        )  # fmt: skip
    else:
        found = transformer(
            hidden_states=tokens, timestep=times, encoder_hidden_states=torch.randn(1, 64, 3584),
            img_shapes=[[(1, SIDE // 2, SIDE // 2)]],
        )  # fmt: skip
    result: torch.Tensor = found.sample
    return result


def count(name: str) -> dict[str, Any]:
    """Parameters, and bytes of activations of one image in a training step in fp32."""
    if name == "omnigen":  # Not trained; what it computes depends on numbers that are not there.
        return count_parameters(name)
    return {
        **count_parameters(name),
        "activation_bytes": trace(name, checkpointing=False),
        "checkpointed_bytes": trace(name, checkpointing=True),
    }


def count_parameters(name: str) -> dict[str, Any]:
    """Parameters by the names that a base model's counts have, and bytes on the hub."""
    with torch.device("meta"):
        networks = MAKERS[name]()
    transformer = networks.pop("transformer")
    sizes = {part: sum(p.numel() for p in it.parameters()) for part, it in networks.items()}
    n_denoiser = sum(p.numel() for p in transformer.parameters())
    return {
        # bf16 on the hub, as all of these are.
        "n_download_bytes": round(2 * (n_denoiser + sum(sizes.values())), -8),
        "n_denoiser_parameters": n_denoiser,
        "n_other_parameters": sum(sizes.values()),
        "n_text_parameters": sum(n for part, n in sizes.items() if part.startswith("text")),
        "n_offloaded_parameters": sum(
            sizes[part] for part in find_family(BASE_MODELS[name].family).offloaded_networks
        ),
        **count_adapted(transformer, find_lora_layers(name, transformer)),
    }


def count_adapted(network: nn.Module, ends: Sequence[str]) -> dict[str, Any]:
    """The layers whose names end so: inputs, outputs, and how many; of all and of one block."""
    blocks: dict[str, Counter[tuple[int, int]]] = defaultdict(Counter)
    for key, module in network.named_modules():
        if isinstance(module, nn.Linear) and f".{key}".endswith(tuple(f".{end}" for end in ends)):
            block = BLOCK.match(key)
            blocks[block[0] if block else key][module.in_features, module.out_features] += 1
    largest = max(blocks.values(), key=lambda one: sum(i * i * n for (i, _), n in one.items()))
    whole = sum(blocks.values(), Counter())
    return {
        name: tuple((*shape, found[shape]) for shape in sorted(found))
        for name, found in (("adapted_shapes", whole), ("adapted_block", largest))
    }


def find_lora_layers(name: str, transformer: nn.Module) -> list[str]:
    """The ends of the names of layers that LoRA adapts; they depend on the network alone."""
    family = find_family(BASE_MODELS[name].family)
    model: Any = object.__new__(family)
    model.pipeline = type("Networks", (), {"transformer": transformer})()
    found: list[str] = model.adapted_layers("transformer")
    return found


def trace(name: str, *, checkpointing: bool) -> int:
    """Peak of all that is neither weight nor gradient of a weight."""
    from fake_networks import Held  # noqa: PLC0415  (imports full_size, which imports this file)

    held = Held()
    with FakeTensorMode(), held:
        transformer: Any = MAKERS[name]()["transformer"]
        if checkpointing:
            transformer.enable_gradient_checkpointing()
        transformer.train()
        for weight in transformer.parameters():
            weight.register_post_accumulate_grad_hook(lambda it: setattr(it, "grad", None))
        before = held.now["cpu"]
        held.reset_peak()
        loss = call(name, transformer).pow(2).mean()
        # Without checkpointing the forward pass is the peak; with it a block that is made anew.
        if checkpointing:
            loss.backward()
        return held.peak["cpu"] - before
