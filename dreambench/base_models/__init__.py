"""Base models: pretrained generators, one file a family. Importing this imports no torch."""

from dreambench.base_models.catalogue import BASE_MODELS as BASE_MODELS
from dreambench.base_models.registry import BaseModel as BaseModel
from dreambench.base_models.registry import find_base_model as find_base_model
from dreambench.base_models.registry import load_base_model as load_base_model
from dreambench.config.sampler import Precision as Precision
