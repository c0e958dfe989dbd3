"""An encoder of your own in one file: `--encoder dino=my_encoder.py:MyEncoder`.

    dreambench run --method copy-reference --encoder dino=my_encoder.py:MyEncoder

It needs no weights. One that has some names their file or folder with the attribute `weights`, and
reads `self.weights_path` in `load`.
"""

import torch

from dreambench import Encoder
from dreambench.encoders.preprocessing import Pixels


class MyEncoder(Encoder):
    """The first 8 x 8 frequencies of each colour, as in MPEG-7's colour layout descriptor."""

    name, version = "colour-layout", 1
    roles = ("dino",)  # what it can stand for; features of "dino" are scaled to unit length
    pixels = Pixels(64, 64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def load(self, device):
        """Return the cosine waves (8, 64), which become `self.model`."""
        frequencies = torch.arange(8, device=device)[:, None]
        places = torch.arange(64, device=device) + 0.5
        return torch.cos(torch.pi / 64 * frequencies * places)

    def forward(self, batch):
        """Return one row per image: (n, 3, 64, 64) as `pixels` prepares them -> (n, 192)."""
        return torch.einsum("ui,vj,ncij->ncuv", self.model, self.model, batch).flatten(1)
