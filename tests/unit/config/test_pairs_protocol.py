"""Pairs: what the shipped protocol holds, what a pair is, and what a faulty file is told."""

from collections import Counter

import pytest
from pairs import TINY_PAIRS

from dreambench.artifacts.plan import make_plan
from dreambench.config.protocol import list_all, load_all, load_protocol
from dreambench.config.slots import check_subject_slots, fill_subjects
from dreambench.datasets.subjects import digest_subjects
from dreambench.errors import UserError
from dreambench.storage.shipped import shipped_path


def write(folder, *changes):
    text = TINY_PAIRS
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "own.toml").write_text(text)
    return str(folder / "own.toml")


def test_unos_list_has_30_pairs_with_25_prompts_and_one_photo_each():
    protocol = load_protocol("pairs")
    pairs = list_all(protocol, protocol.find_dataset())
    kinds = Counter(pair.kind for pair in pairs)
    assert kinds == {"object-object": 10, "live-live": 10, "live-object": 10}
    assert {len(protocol.prompts_for(kind)) for kind in kinds} == {25}
    texts = {(u.subject, u.clip_text) for u in make_plan(protocol, pairs, batch_size=1).images}
    assert len(texts) == 750
    assert ("cat+dog", "a cat wearing a red hat, next to it is a dog") in texts
    assert ("monster_toy+pink_sunglasses", "a red toy and a red glasses") in texts
    assert sum(pair.shares_noun for pair in pairs) == 6
    first = pairs[0].show(protocol.references)
    assert [path.name for path in first.photos] == ["02.jpg", "03.jpg"]
    assert [len(member.photos) for member in first.each] == [1, 1]


def test_methods_may_be_shown_all_photos_instead(tmp_path):
    text = shipped_path("protocols", "pairs.toml").read_text()
    (tmp_path / "own.toml").write_text(text.replace('"single"', '"all"'))
    protocol = load_protocol(str(tmp_path / "own.toml"))
    pairs = list_all(protocol, protocol.find_dataset())
    assert [pair.show("all") for pair in pairs] == pairs
    single = load_protocol("pairs")
    assert digest_subjects(pairs, "all") != digest_subjects(pairs, single.references)


def test_a_pair_has_the_photos_masks_and_nouns_of_both(tmp_path):
    protocol = load_protocol(write(tmp_path))
    pair, same = load_all(protocol, protocol.find_dataset())
    dog, mug = pair.each
    assert (pair.name, pair.kind, pair.nouns) == ("dog+mug", "live-object", ("dog", "mug"))
    assert pair.photos == (*dog.photos, *mug.photos)
    assert pair.masks == (*dog.masks, *mug.masks)
    assert (pair.shares_noun, same.shares_noun) == (False, True)
    assert pair.held_out("single") == (*dog.photos[1:], *mug.photos[1:])
    assert load_all(protocol, protocol.find_dataset(), names=[same.name]) == [same]


def test_the_order_of_a_pair_counts(tmp_path):
    (tmp_path / "turned").mkdir()
    turned = write(
        tmp_path / "turned", ('"dog", "mug"', '"mug", "dog"'), ("live-object", "object-live")
    )
    digests = set()
    for path in (write(tmp_path), turned):
        protocol = load_protocol(path)
        pairs = load_all(protocol, protocol.find_dataset())
        digests |= {protocol.digest(), digest_subjects(pairs)}
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("old", "new", "code", "fact"),
    [
        ('"dog", "mug"', '"dog", "mugg"', "unknown-name", "'mugg'"),
        ('"dog", "mug"', '"dog", "dog"', "invalid-value", "dog"),
        ('"dog", "mug"', '"dog"', "missing-key", "pairs"),
        ('"plushie", "plushie2"', '"dog", "mug"', "invalid-value", "dog+mug"),
        ('"plushie", "plushie2"', '"dog", "dog2"', "unknown-name", "live-live"),
        ("a {first} and a {second} on", "a {first} on", "invalid-value", "{second}"),
        ("a {first} and a {second} on", "a {subject} on", "invalid-value", "beach"),
        ('references = "single"', 'subjects = ["dog"]', "invalid-value", "pairs"),
    ],
)
def test_a_faulty_protocol_of_pairs_is_told_what_is_wrong(tmp_path, old, new, code, fact):
    with pytest.raises(UserError) as caught:
        load_protocol(write(tmp_path, (old, new)))
    assert caught.value.code == code
    assert fact in str(caught.value)


def test_a_protocol_of_single_subjects_has_no_prompts_for_two(tmp_path):
    text = shipped_path("protocols", "mini.toml").read_text()
    path = tmp_path / "own.toml"
    path.write_text(text.replace("a {subject} in the jungle", "a {first} and a {second}"))
    with pytest.raises(UserError) as caught:
        load_protocol(str(path))
    assert caught.value.code == "invalid-value"


def test_slots_of_two_are_filled_each_with_its_own():
    text = check_subject_slots("a red {first}, next to it is a {second}")
    assert fill_subjects(text, ("sks dog", "mug")) == "a red sks dog, next to it is a mug"
    assert fill_subjects("a {subject} here", "dog") == "a dog here"
    with pytest.raises(ValueError, match="second"):
        check_subject_slots("a {first} and a {subject}")
