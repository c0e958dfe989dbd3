"""DreamBooth with low-rank adapters (Hu et al., ICLR 2022) in place of full fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field

from dreambench.base_models.base import LoadedModel
from dreambench.base_models.lora import load_lora, save_lora, unload_lora
from dreambench.base_models.spec import BaseModel
from dreambench.methods.base import QuantizedSettings, Work
from dreambench.methods.finetuning.dreambooth import DreamBooth, DreamBoothSettings

if TYPE_CHECKING:
    from peft import LoraConfig


class DreamBoothLoraSettings(DreamBoothSettings, QuantizedSettings):
    """Numbers of a DreamBooth-LoRA recipe."""

    rank: int = Field(ge=1, description="of each adapter; its alpha is the same, so its scale is 1")


class DreamBoothLora(DreamBooth):
    """DreamBooth that trains adapters on the attention layers and leaves the base model alone.

    The adapters are saved as diffusers' `pytorch_lora_weights.safetensors`, which
    `pipeline.load_lora_weights` reads.
    """

    Settings: ClassVar[type[DreamBoothLoraSettings]] = DreamBoothLoraSettings
    settings: DreamBoothLoraSettings

    _saved_bytes_per_parameter = 4

    @classmethod
    def count_work(cls, settings: DreamBoothSettings, base_model: BaseModel) -> Work:
        """See `methods.Method`.

        Raises:
            UserError: the base model's weights are not quantised here.
        """
        assert isinstance(settings, DreamBoothLoraSettings)
        settings.check_quantization(base_model)
        return super().count_work(settings, base_model)

    def _load_base_model(self) -> LoadedModel:
        return self.context.load_base_model(quantization=self.settings.quantization)

    @classmethod
    def _count_second(cls, settings: DreamBoothSettings, base_model: BaseModel) -> int:
        return 0  # Adapters of stage II are few in comparison.

    @classmethod
    def _count_trained(cls, settings: DreamBoothSettings, base_model: BaseModel) -> int:
        # Adapters of text encoders are few in comparison.
        assert isinstance(settings, DreamBoothLoraSettings)
        return sum(settings.rank * (i + o) * n for i, o, n in base_model.adapted_shapes)

    def _prepare(self) -> None:
        """Keep nothing: the base model's weights stay as they are, and adapters come and go."""

    def _reset(self, seed: int) -> None:
        from diffusers.training_utils import cast_training_params  # noqa: PLC0415  (slow import)

        unload_lora(self.model)
        # peft samples the first factor from torch's own generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for name, module in self.trained.items():
                config = self._config(self.model.adapted_layers(name))
                module.add_adapter(config)  # type: ignore[operator]
                cast_training_params(module)

    def _config(self, layers: list[str]) -> LoraConfig:
        from peft import LoraConfig  # noqa: PLC0415  (slow import)

        rank = self.settings.rank
        return LoraConfig(
            r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=layers
        )

    def _save(self, out_dir: Path) -> None:
        save_lora(self.model, out_dir, self.trained)

    def _restore(self, out_dir: Path) -> None:
        unload_lora(self.model)
        load_lora(self.model, out_dir, self.trained)
