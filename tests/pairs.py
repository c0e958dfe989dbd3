"""Two subjects in one picture, for tests: a tiny protocol of two pairs of mini."""

from conftest import TINY_PROTOCOL

_HEAD = TINY_PROTOCOL[: TINY_PROTOCOL.index("[[prompts]]")]
TINY_PAIRS = (
    _HEAD.replace('subjects = ["dog", "mug"]', 'references = "single"')
    .replace('"dino", "clip-i", "clip-t", "div", "pres"', '"pair-dino", "pair-clip-i", "clip-t"')
    .replace("n_images_per_prompt = 2", "n_images_per_prompt = 1")
    + """
[[pairs]]
subjects = ["dog", "mug"]

[[pairs]]
subjects = ["plushie", "plushie2"]

[[prompts]]
id = "beach"
family = "recontextualization"
kinds = ["live-object", "object-object"]
text = "a {first} and a {second} on the beach"

[[prompts]]
id = "red"
family = "property"
kinds = ["live-object", "object-object"]
text = "a red {first}, next to it is a {second}"
"""
)
"""One pair of two classes, and one whose subjects share a noun."""
