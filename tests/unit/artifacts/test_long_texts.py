"""Prompts that are longer than a text encoder reads: which words are lost, and to whom."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreambench.artifacts.long_texts import TextReader, find_cut_texts, find_lost_words
from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.base_models.registry import find_base_model, make_text_reader
from dreambench.encoders.registry import find_encoder

# Of each word its letters, and two for start and end.
LETTERS = TextReader("letters", 12, lambda text: len("".join(text.split())) + 2)
WORDS = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=12)


@given(WORDS, st.integers(0, 11), st.text("cd", min_size=1, max_size=6))
def test_what_is_lost_is_the_shortest_end_of_words(words, place, phrase):
    words = [*words[:place], "{subject}", *words[place:]]
    lost = find_lost_words(LETTERS, " ".join(words), phrase)
    n_lost = len(lost.split())
    assert words[len(words) - n_lost :] == lost.split()

    def length(n_words):
        return LETTERS.count(" ".join(words[:n_words]).replace("{subject}", phrase))

    n_read = len(words) - n_lost
    assert length(n_read) <= LETTERS.n_tokens
    assert n_lost == 0 or length(n_read + 1) > LETTERS.n_tokens


def test_prompts_are_grouped_by_what_is_lost():
    texts = [
        ("dog", "long", "aaaa bbbb {subject}"), ("mug", "long", "aaaa bbbb {subject}"),
        ("cat", "long", "aaaa bbbb {subject}"), ("dog", "short", "a {subject}"),
        ("dog", "prior", "a long long dog"),
    ]  # fmt: skip
    cuts = find_cut_texts(LETTERS, [*texts, *texts], {"dog": "dog", "mug": "mug", "cat": "c"})
    assert [(cut.prompt_id, cut.lost, cut.subjects) for cut in cuts] == [
        ("long", "{subject}", ["dog", "mug"]), ("prior", "dog", ["dog"]),
    ]  # fmt: skip
    assert "'{subject}' (for dog, mug)" in str(cuts[0])
    assert find_cut_texts(None, texts, {}) == []


@pytest.mark.parametrize("base", ["mini", "sd15", "sd21", "sdxl", "sd21-unclip"])
def test_each_base_model_reads_what_its_tokenizer_takes(base):
    reader = make_text_reader(BASE_MODELS[base])
    assert reader.n_tokens == (32 if base == "mini" else 77)
    assert reader.count("a dog") == 4
    assert reader.count("a dog " * 40) == 82  # More than is read: counting does not cut.


def test_a_local_folder_reads_what_its_own_tokenizer_takes(other_folder, tmp_path):
    reader = make_text_reader(find_base_model(f"sd15={other_folder}"))
    assert 8 <= reader.n_tokens <= 77
    assert make_text_reader(replace(BASE_MODELS["sd15"], location=str(tmp_path))) is None


@pytest.mark.parametrize(("name", "n_tokens"), [("mini-clip", 32), ("clip-vit-b-32", 77)])
def test_each_clip_reads_what_its_tokenizer_takes(name, n_tokens):
    from dreambench.encoders.image_text import make_text_reader as of_encoder  # noqa: PLC0415

    reader = of_encoder(find_encoder(name, "clip"))
    assert (reader.name, reader.n_tokens) == (name, n_tokens)
    assert reader.count("a dog") == 4
    assert reader.count("a dog " * 40) == 82


def test_what_mini_clip_loses_changes_no_feature():
    from dreambench.encoders.image_text import make_text_reader as of_encoder  # noqa: PLC0415
    from dreambench.encoders.registry import load_spec  # noqa: PLC0415

    spec = find_encoder("mini-clip", "clip")
    reader = of_encoder(spec)
    text = "a red dog on the beach " * 8
    lost = find_lost_words(reader, text, "")
    read = text.strip().removesuffix(lost).strip()
    assert lost and reader.count(read) == reader.n_tokens
    whole, other = load_spec(spec).encode_texts([text, f"{read} {'mug ' * 30}"])
    assert (whole == other).all()
