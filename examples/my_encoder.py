"""An encoder of your own: the low frequencies of an image's colours.

    dreambench run --method copy-reference --encoder dino=examples/my_encoder.py:MyEncoder

As in MPEG-7's colour layout descriptor: a two-dimensional cosine transform, and its first 8 x 8
frequencies of each colour. It needs no weights; an encoder that has some names their file or folder
with `weights`, and reads them in `load`.
"""

import torch

from dreambench import Encoder
from dreambench.encoders.preprocessing import Pixels


class MyEncoder(Encoder):
    name = "colour-layout"
    version = 1
    roles = ("dino",)
    pixels = Pixels(64, 64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def load(self, device):
        frequencies = torch.arange(8, device=device)[:, None]
        places = torch.arange(64, device=device) + 0.5
        return torch.cos(torch.pi / 64 * frequencies * places)

    def forward(self, batch):
        waves = self.model  # What `load` returned, (8, 64); the batch is (n, 3, 64, 64).
        return torch.einsum("ui,vj,ncij->ncuv", waves, waves, batch).flatten(1)
