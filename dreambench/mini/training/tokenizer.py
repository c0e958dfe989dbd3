"""Makes the CLIP tokenizer of `mini`: a small byte-pair vocabulary with rare tokens left over.

    python -m dreambench.mini.training.tokenizer --out DIR

The same words for a language model, which mini-flow has, are `make_language_tokenizer`'s, and those
for T5, which mini-pixel has, `make_t5_tokenizer`'s.

The captions' words come first, then common English words that the world never shows, then
unpronounceable trigrams: tokens that are in the vocabulary and in no caption, which is what
DreamBooth's identifier has to be (paper, section 3.2).
"""

from __future__ import annotations

import argparse
import json
import math
import string
from collections import Counter
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer, Qwen2Tokenizer, T5Tokenizer

from dreambench.mini.training.data import make_shots
from dreambench.mini.world.renderer import make_caption

CONTEXT_LENGTH = 32
VOCABULARY_SIZE = 1400
COMMON_WORDS = """
the and of to is was for with on that by this are from his her their have not one two three all
new old young little big small great good bad time day night year people man woman child boy
girl friend king queen horse cow sheep fish lion tiger bear wolf panda frog rabbit house home
door window table chair bed floor wall roof garden tree leaf leaves autumn flower sunflower
sunflowers grass field forest mountain river lake ocean sea milk water wet rain cloud sun moon
star sky wind fire street road dirt sidewalk crowded square bridge tower eiffel paris london
york temple castle church school market shop train bus bicycle ship plane book paper pen letter
music song dance film photo picture drawing statue painting style artist famous watercolor
portrait sculpture van gogh rembrandt vermeer monet warhol michelangelo color light dark bright
soft hard warm cold hot sweet food bread cheese apple orange cup glass bottle bowl plate spoon
knife can candle clock toy doll game shirt coat shoe boot sneaker dress scarf hat outfit chef
police firefighter wizard monocle front behind under over near between left right side high low
round flat tall short long wide metal wood stone paper silk cotton leather mirror rug white
black grey gray silver gold bronze running walking sitting standing sleeping eating reading
playing smiling angry happy sad crying
""".split()  # noqa: SIM905  (a list a word a line would hide the code)


def make_rare_words(n: int) -> list[str]:
    """Pronounceable by nobody: three consonants, no letter twice; the same n words every time."""
    rng = np.random.default_rng(5)
    letters = list("bcdfghjklmnpqrstvwxz")
    words: list[str] = []
    while len(words) < n:
        word = "".join(str(letter) for letter in rng.choice(letters, 3, replace=False))
        if word not in words:
            words.append(word)
    return words


def _make_corpus() -> list[str]:
    rng = np.random.default_rng(0)
    captions = [
        make_caption(shot, described=bool(rng.integers(2)))
        for index in range(1400)
        for shot in make_shots("train", index)
    ]
    return captions + [" ".join(COMMON_WORDS)] * 12 + [" ".join(make_rare_words(160))] * 6


def _read_merges(learner: Tokenizer) -> list[tuple[str, str]]:
    return [(first, second) for first, second in json.loads(learner.to_str())["model"]["merges"]]


def make_tokenizer() -> CLIPTokenizer:
    """Learns the merges and packs them in the order that CLIP's own vocabulary has."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    learner.train_from_iterator(
        _make_corpus(), trainers.BpeTrainer(vocab_size=VOCABULARY_SIZE, end_of_word_suffix="</w>")
    )
    merges = _read_merges(learner)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [letter + "</w>" for letter in alphabet]
    tokens += ["".join(merge) for merge in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(dict.fromkeys(tokens))},
        merges=merges,
        model_max_length=CONTEXT_LENGTH,
    )


def make_language_tokenizer() -> Qwen2Tokenizer:
    """Learns the same words with the blank before each, as a language model reads them.

    A chat is its messages' text and an end, so that no text is empty.
    """
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # A word of a caption is not its first, but for the article.
    learner.train_from_iterator(
        [f"a {text}" for text in _make_corpus()],
        trainers.BpeTrainer(vocab_size=VOCABULARY_SIZE, initial_alphabet=alphabet),
    )
    merges = _read_merges(learner)
    tokens = ["<|endoftext|>", *alphabet, *("".join(merge) for merge in merges)]
    tokenizer = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(dict.fromkeys(tokens))},
        merges=merges,
        model_max_length=CONTEXT_LENGTH,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message.content }}{% endfor %}<|im_end|>"
    )
    return tokenizer


def make_t5_tokenizer() -> T5Tokenizer:
    """Make a tokenizer of the same words, whole, as T5 reads them; of letters what it lacks."""
    counts = Counter(word for text in _make_corpus() for word in text.split())
    n_words = counts.total()
    pieces = [(f"▁{word}", math.log(count / n_words)) for word, count in sorted(counts.items())]
    # Any word that is known as a whole is likelier than its letters.
    letters = [(letter, 2 * math.log(1 / n_words)) for letter in ("▁", *string.ascii_lowercase)]
    return T5Tokenizer(
        vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces, *letters], extra_ids=0,
        model_max_length=77,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    make_tokenizer().save_pretrained(args.out)


if __name__ == "__main__":
    main()
