"""Small random pipelines of the families that were trained by flow matching."""

import re
import string

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    OmniGenPipeline,
    OmniGenTransformer2DModel,
    QwenImageEditPlusPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    LlamaTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.base_models.flux_photo import ADAPTED

SIDE_PX = 64
PROTOCOL = """
title = "one subject, one prompt, two steps"
source = "tests"
version = 1
dataset = "mini"
subjects = ["dog"]
base_model = "mini"
n_images_per_prompt = 1
metrics = ["dino"]

[sampler]
scheduler = "flow-euler"
n_steps = 2
guidance_scale = 2.0
size_px = 64

[prior]
n_images = 1

[encoders]
dino = "mini-vit"
clip = "mini-clip"
perceptual = "mini-vit-patches"

[[prompts]]
id = "beach"
family = "recontextualization"
text = "a {subject} on the beach"
"""
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant\n"
)


def make_qwen_tokenizer():
    """Bytes, a few merges, and words of chats; the only rare token is zbx."""
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet())]
    merges = [("d", "o"), ("do", "g"), ("Ġ", "z"), ("Ġz", "b"), ("Ġzb", "x")]
    # Common words before the rare one, so that it is in the vocabulary's second half.
    names += [first + second for first, second in merges]
    tokenizer = Qwen2Tokenizer(
        vocab={name: index for index, name in enumerate(names)}, merges=merges,
        model_max_length=512,
    )  # fmt: skip
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHAT
    return tokenizer


def write_flux2_folder(folder):
    """A random pipeline of FLUX.2 [klein]'s shape, with a block of each kind."""
    torch.manual_seed(7)
    tokenizer = make_qwen_tokenizer()
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 8, 16), norm_num_groups=4, latent_channels=4, sample_size=SIDE_PX,
        layers_per_block=1,
    )  # fmt: skip
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2)
    pipeline = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae,
        # The pipeline reads its layers 9, 18 and 27.
        text_encoder=Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8,
                num_hidden_layers=28, num_attention_heads=2, num_key_value_heads=1, head_dim=4,
                max_position_embeddings=512, tie_word_embeddings=True,
            )
        ),
        tokenizer=tokenizer,
        transformer=Flux2Transformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=24, timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
        ),
    )  # fmt: skip
    pipeline.save_pretrained(folder)


def write_mini_flow_folder(folder):
    """The shape of mini-flow with two blocks, and mini's own autoencoder."""
    from dreambench.mini.training.flow_model import make_flow  # noqa: PLC0415  (slow import)

    vae = AutoencoderKL.from_pretrained(BASE_MODELS["mini"].location, subfolder="vae").float()
    latents = np.random.default_rng(1).normal(size=(4, 8, 16, 16)).astype(np.float16)
    flow = make_flow(vae, latents, width=64, n_double=1, n_single=1)
    for weight in flow.transformer.parameters():
        weight.data += 0.05 * torch.randn(weight.shape)
    flow.save(folder)


def make_clip(kind, width):
    """Mini's tokenizer, and a random text encoder for it."""
    tokenizer = CLIPTokenizer.from_pretrained(BASE_MODELS["mini"].location, subfolder="tokenizer")
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=20, num_hidden_layers=2,
        num_attention_heads=2, projection_dim=width,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return tokenizer, kind(config)


def make_t5(width):
    """A tokenizer of letters, and a random encoder for it."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *string.ascii_lowercase]
    tokenizer = T5Tokenizer(
        vocab=[(piece, -float(place)) for place, piece in enumerate(pieces)], extra_ids=0,
        model_max_length=512,
    )  # fmt: skip
    config = T5Config(
        vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=20, num_layers=1, num_heads=2,
        feed_forward_proj="gated-gelu", is_encoder_decoder=False,
    )  # fmt: skip
    return tokenizer, T5EncoderModel(config)


def make_vae():
    """A random autoencoder of FLUX.1's and Stable Diffusion 3's shape."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 16), norm_num_groups=4, latent_channels=4, sample_size=SIDE_PX,
        layers_per_block=1, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, use_quant_conv=False, use_post_quant_conv=False,
        shift_factor=0.1159, scaling_factor=0.3611,
    )  # fmt: skip


def write_flux_folder(folder, *, kind=FluxPipeline, guidance_embeds=True):
    """A random pipeline of FLUX.1's shape, with a block of each kind."""
    torch.manual_seed(8)
    tokenizer, text_encoder = make_clip(CLIPTextModel, 16)
    tokenizer_2, text_encoder_2 = make_t5(24)
    pipeline = kind(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=make_vae(), text_encoder=text_encoder, tokenizer=tokenizer,
        text_encoder_2=text_encoder_2, tokenizer_2=tokenizer_2,
        transformer=FluxTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=24, pooled_projection_dim=16,
            guidance_embeds=guidance_embeds, axes_dims_rope=(4, 4, 8),
        ),
    )  # fmt: skip
    pipeline.save_pretrained(folder)


def write_schnell_folder(folder):
    """FLUX.1 [schnell] is told no guidance."""
    write_flux_folder(folder, guidance_embeds=False)


def write_kontext_folder(folder):
    """The same networks under another pipeline."""
    write_flux_folder(folder, kind=FluxKontextPipeline)


def find_photo_layers(model):
    """The layers that OminiControl's adapter is for, by their names."""
    named = model.pipeline.transformer.named_modules()
    return {name: one for name, one in named if re.fullmatch(ADAPTED, name)}


def write_photo_adapter(model, file, *, scale=0.3, kinds=""):
    """A random one of rank 2 in its authors' layout, on the layers that match `kinds`."""
    noise, state = torch.Generator().manual_seed(1), {}
    for name, layer in find_photo_layers(model).items():
        if re.search(kinds, name):
            sizes = (2, layer.in_features), (layer.out_features, 2)
            for end, size in zip(("A", "B"), sizes, strict=True):
                value = scale * torch.randn(size, generator=noise)
                state[f"transformer.{name}.lora_{end}.weight"] = value
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, file)
    return file


def write_sd3_folder(folder):
    """A random pipeline of Stable Diffusion 3.5's shape, with dual attention in the first block."""
    torch.manual_seed(9)
    tokenizer, text_encoder = make_clip(CLIPTextModelWithProjection, 16)
    tokenizer_2, text_encoder_2 = make_clip(CLIPTextModelWithProjection, 16)
    tokenizer_3, text_encoder_3 = make_t5(40)
    pipeline = StableDiffusion3Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=make_vae(),
        text_encoder=text_encoder, tokenizer=tokenizer, text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2, text_encoder_3=text_encoder_3, tokenizer_3=tokenizer_3,
        transformer=SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2,
            attention_head_dim=8, num_attention_heads=4, caption_projection_dim=32,
            joint_attention_dim=40, pooled_projection_dim=32, pos_embed_max_size=16,
            dual_attention_layers=(0,), qk_norm="rms_norm",
        ),
    )  # fmt: skip
    pipeline.save_pretrained(folder)


PHOTO_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def make_qwen_parts(**config_of_editor):
    """The parts of a random pipeline of Qwen-Image's shape."""
    torch.manual_seed(10)
    tokenizer = make_qwen_tokenizer()
    tokenizer.model_max_length = 4096
    tokenizer.add_special_tokens({"additional_special_tokens": [*PHOTO_TOKENS]})
    start, end, image, video = tokenizer.convert_tokens_to_ids([*PHOTO_TOKENS])
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
            "rope_theta": 1e6,
            "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default"},
        },
        vision_config={
            "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
            "out_hidden_size": 16,
        },
        vocab_size=len(tokenizer), hidden_size=16, vision_start_token_id=start,
        vision_end_token_id=end, image_token_id=image, video_token_id=video,
    )  # fmt: skip
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, shift_terminal=0.02
        ),
        "vae": AutoencoderKLQwenImage(
            base_dim=8, z_dim=4, num_res_blocks=1, latents_mean=[-0.7, 0.1, 0.3, -0.2],
            latents_std=[2.8, 1.4, 2.3, 0.6],
        ),
        "text_encoder": Qwen2_5_VLForConditionalGeneration(config),
        "tokenizer": tokenizer,
        "transformer": QwenImageTransformer2DModel(
            in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=16, axes_dims_rope=(8, 4, 4),
            **config_of_editor,
        ),
    }  # fmt: skip


def write_qwen_folder(folder):
    """A random pipeline of Qwen-Image's shape."""
    QwenImagePipeline(**make_qwen_parts()).save_pretrained(folder)


def write_qwen_edit_folder(folder):
    """The same of the model that edits: other times for photos, and a part that reads them."""
    parts = make_qwen_parts(zero_cond_t=True)
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(), tokenizer=parts["tokenizer"],
        video_processor=Qwen2VLVideoProcessor(),
    )  # fmt: skip
    QwenImageEditPlusPipeline(processor=processor, **parts).save_pretrained(folder)


def write_omnigen_folder(folder):
    """A random pipeline of OmniGen's shape, whose transformer reads letters itself."""
    torch.manual_seed(11)
    pieces = ["<unk>", "<s>", "</s>", "▁", *map(chr, range(33, 127))]
    tokenizer = LlamaTokenizer(
        vocab={piece: place for place, piece in enumerate(pieces)}, merges=[],
        model_max_length=4096, add_bos_token=True,
    )  # fmt: skip
    width = 16
    transformer = OmniGenTransformer2DModel(
        in_channels=4, hidden_size=2 * width, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=24, num_layers=2, pad_token_id=2, vocab_size=len(tokenizer),
        pos_embed_max_size=32, time_step_dim=16,
        rope_scaling={"short_factor": [1.0] * (width // 2), "long_factor": [1.0] * (width // 2)},
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 16), norm_num_groups=4, latent_channels=4, sample_size=SIDE_PX,
        layers_per_block=1, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=0.13025,
    )  # fmt: skip
    OmniGenPipeline(
        transformer=transformer, vae=vae, tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True, num_train_timesteps=1),
    ).save_pretrained(folder)  # fmt: skip


WRITERS = {
    "flux2-klein-base": write_flux2_folder,
    "flux-dev": write_flux_folder,
    "flux-schnell": write_schnell_folder,
    "flux-kontext": write_kontext_folder,
    "sd35-medium": write_sd3_folder,
    "qwen-image": write_qwen_folder,
    "qwen-image-edit": write_qwen_edit_folder,
    "omnigen": write_omnigen_folder,
}
"""Writes a random folder of the family of a base model."""
