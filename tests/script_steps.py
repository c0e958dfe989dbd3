"""A training step of ours with prior preservation, for comparison with a public script's."""

import torch

from dreambench.methods.finetuning.training import Batch, compute_losses

SUBJECT, CLASS, PRIOR_WEIGHT = "a zbx dog", "a dog", 0.5
SEED = 3


def take_step(model, images):
    """Freeze a base model but for its network, and compute a step's gradient on it.

    The first two of the images are the subject's, the others the class's. Returns the loss, the
    network and the encoded images.
    """
    model.freeze()
    (network,) = model.trainable_networks(with_text_encoders=False).values()
    network.requires_grad_(True)
    encoded = model.encode_images(images)
    with torch.no_grad():
        text = model.encode_prompts([SUBJECT, CLASS])

    def make_batch(noise):
        latents = encoded.sample(torch.arange(len(images)), noise)
        return Batch(latents, text.repeat(0, 2).join(text.repeat(1, 2)), n_subject=2)

    losses = compute_losses(model, make_batch, torch.Generator().manual_seed(SEED))
    loss = losses["subject"] + PRIOR_WEIGHT * losses["prior"]
    loss.backward()
    return loss, network, encoded
