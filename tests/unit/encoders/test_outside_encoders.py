"""Encoders from outside: what they need to be, what they are called, and how they fail."""

import shutil

import numpy as np
import pytest
from conftest import REPOSITORY

from dreambench.datasets.index import find_dataset
from dreambench.datasets.subjects import load_subjects
from dreambench.encoders.extraction import extract_files
from dreambench.encoders.outside import GROUP
from dreambench.encoders.parts import PartsExtractor
from dreambench.encoders.registry import (
    check_encoders,
    choose_encoders,
    find_encoder,
    load_encoder,
    load_spec,
    make_encoder,
    parse_encoder_options,
)
from dreambench.encoders.segmentation import load_segmenter
from dreambench.encoders.spec import find_reference, has_own_pixels
from dreambench.errors import UserError
from dreambench.progress import no_progress
from dreambench.storage.images import load_image

EXAMPLE = REPOSITORY / "examples" / "my_encoder.py"
MINI = {"dino": "mini-vit", "clip": "mini-clip", "perceptual": "mini-vit-patches"}
HEAD = """
import numpy as np, torch
from dataclasses import dataclass
from dreambench import Encoder
from dreambench.encoders.preprocessing import Pixels

class Mine(Encoder):
    roles = ("dino", "sharpness")
    pixels = Pixels(8, 8, (0.0,) * 3, (1.0,) * 3)

    def forward(self, batch):
        return batch.flatten(1)
"""


@pytest.fixture(scope="module")
def photos():
    return [path for s in load_subjects(find_dataset("mini"))[:2] for path in s.photos]


@pytest.fixture
def mine(tmp_path):
    """Writes HEAD and more, and returns the encoder that it holds, for a role."""

    def load(more="", *, role="dino", name="Mine"):
        path = tmp_path / "mine.py"
        path.write_text(HEAD + more)
        return make_encoder(choose_encoders({}, {role: f"{path}:{name}"})[role])

    return load


def fail(function, *words, **options):
    """The code of the error that a call ends with; the error is one line."""
    with pytest.raises(UserError) as caught:
        function(*words, **options)
    assert "\n" not in str(caught.value)
    return caught.value.code


def test_the_example_is_an_encoder_as_any_other(photos, tmp_path):
    (spec,) = choose_encoders({}, {"dino": f"{EXAMPLE}:MyEncoder"}).values()
    encoder = load_spec(spec)
    images = [load_image(path) for path in photos]
    rows = encoder.encode_images(images)
    assert (rows.shape, rows.dtype) == ((len(photos), 192), np.float32)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-6)
    (cached,) = extract_files(photos, [encoder], cache_dir=tmp_path, progress=no_progress)
    assert np.abs(cached - rows).max() < 1e-6
    parts = PartsExtractor(
        encoder, load_encoder("mini-clip", "clip"), load_segmenter("mini-segmenter"),
        class_name="dog",
    )  # fmt: skip
    assert parts.encode_images(images[:2]).shape == (2, 192 + 192 + 192)


def test_identity_has_name_version_code_and_pixels_and_no_path(mine, tmp_path):
    first = mine().identity
    assert first.startswith("outside:mine:v1:mine.py:Mine@")
    assert first.endswith("|resize8-bicubic,crop8,norm(0,0,0,1,1,1)|fp32")
    assert str(tmp_path) not in first
    assert mine().identity == first
    assert mine("# other code").identity != first
    versioned = mine("Mine.name, Mine.version = 'better', 3").identity
    assert versioned.startswith("outside:better:v3:mine.py:Mine@")
    assert find_reference(first) == "mine.py:Mine"
    assert not has_own_pixels(first)
    builtin = find_encoder("mini-vit", "dino").identity()
    assert find_reference(builtin) is None


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_digest_of_weights_is_part_of_the_identity(kind, mine, tmp_path):
    weights = tmp_path / "weights.pt"
    more = "Mine.weights = 'weights.pt'\n"
    assert fail(mine, more) == "missing-weights"
    path = weights
    if kind == "folder":
        weights.mkdir()
        path = weights / "one.bin"
    path.write_bytes(b"one")
    first = mine(more)
    assert first.weights_path == weights
    path.write_bytes(b"two")
    assert mine(more).identity != first.identity
    assert ",weights@" in first.identity
    assert find_reference(first.identity) == "mine.py:Mine"
    # What was opened before is another encoder than what lies there now.
    assert fail(lambda: first.model) == "changed-data"


def test_network_is_built_once_in_evaluation_mode(mine, photos):
    encoder = mine(
        """
class Net(Mine):
    n_built = 0
    def load(self, device):
        Net.n_built += 1
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5), torch.nn.Dropout())
    def forward(self, batch):
        assert not torch.is_grad_enabled()
        return self.model(batch)
""",
        name="Net",
    )
    images = [load_image(path) for path in photos[:3]]
    rows = encoder.encode_images(images)
    assert np.array_equal(rows, encoder.encode_images(images))
    assert rows.shape == (3, 5)
    assert type(encoder).n_built == 1
    assert not encoder.model.training


def test_rows_of_another_input_stay_as_they_are(mine, photos):
    encoder = mine(role="sharpness")
    rows = encoder.encode_images([load_image(photos[0])])
    assert np.linalg.norm(rows) > 1.5


def test_texts_are_of_unit_length_and_do_not_see_each_other(mine):
    encoder = mine(
        """
class Texts(Mine):
    roles = ("clip",)
    def forward_texts(self, texts):
        return torch.tensor([[len(text), text.count("a")] for text in texts]).double()
""",
        role="clip",
        name="Texts",
    )
    texts = [f"a {'d' * n}og" for n in range(11)]
    rows = encoder.encode_texts(texts)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(encoder.encode_texts(texts[4:5])[0], rows[4])


OWN_PIXELS = """
@dataclass(frozen=True)
class Own:
    side: int = 4
    def prepare(self, image):
        return np.asarray(image.resize((self.side, self.side)), float) / {divisor}

Mine.pixels = Own()
"""


def test_preprocessing_of_its_own_is_used_and_no_part_is_cut_out(mine, photos, tmp_path):
    encoder = mine(OWN_PIXELS.format(divisor=255))
    assert has_own_pixels(encoder.identity)
    (rows,) = extract_files(photos[:2], [encoder], cache_dir=tmp_path, progress=no_progress)
    assert rows.shape == (2, 48)
    clip, segmenter = load_encoder("mini-clip", "clip"), load_segmenter("mini-segmenter")
    assert fail(PartsExtractor, encoder, clip, segmenter, class_name="dog") == "own-pixels"


def test_what_fails_in_an_encoder_is_one_line_with_its_place(mine, photos, tmp_path):
    image = load_image(photos[0])
    for more, code in {
        "Mine.forward = lambda self, batch: 1 / 0": "plugin-fails",
        "Mine.load = lambda self, device: open('/nowhere')": "plugin-fails",
        OWN_PIXELS.format(divisor="None"): "plugin-fails",
        "Mine.forward = lambda self, batch: batch": "wrong-shape",
        "Mine.forward = lambda self, batch: batch.flatten(1)[:0]": "wrong-shape",
        "Mine.forward = lambda self, batch: 'rows'": "wrong-shape",
        "Mine.forward = lambda self, batch: batch.flatten(1) * float('nan')": "not-finite",
    }.items():
        assert fail(mine(more).encode_images, [image]) == code
    broken = mine(OWN_PIXELS.format(divisor="None"))
    code = fail(extract_files, photos[:2], [broken], cache_dir=tmp_path, progress=no_progress)
    assert code == "plugin-fails"


def test_what_is_not_an_encoder_is_refused(mine):
    for more, name, role, code in [
        ("function = print", "function", "dino", "not-a-class"),
        ("class Other: pass", "Other", "dino", "not-a-class"),
        ("class No(Encoder):\n    roles = ('dino',)", "No", "dino", "missing-method"),
        ("Mine.roles = ('clip',)", "Mine", "clip", "missing-method"),
        ("", "Mine", "perceptual", "wrong-role"),
        ("Mine.roles = 'dino'", "Mine", "dino", "invalid-value"),
        ("Mine.pixels = None", "Mine", "dino", "invalid-value"),
        ("Mine.name = 'a|b'", "Mine", "dino", "invalid-value"),
        ("Mine.version = '1'", "Mine", "dino", "invalid-value"),
        ("Mine.weights = 3", "Mine", "dino", "invalid-value"),
        ("", "Nobody", "dino", "missing-class"),
        ("1 / 0", "Mine", "dino", "plugin-fails"),
    ]:
        assert fail(mine, more, role=role, name=name) == code, (more, code)


def test_options_name_one_encoder_for_each_role():
    assert parse_encoder_options(["dino=a.py:A", "look=b"]) == {"dino": "a.py:A", "look": "b"}
    assert fail(parse_encoder_options, ["a.py:A"]) == "invalid-value"
    assert fail(parse_encoder_options, ["dino="]) == "invalid-value"
    assert fail(parse_encoder_options, ["a.py:A=dino"]) == "invalid-value"
    assert fail(parse_encoder_options, ["dino=a", "dino=b"]) == "given-twice"


def test_encoders_are_those_of_the_inputs_that_metrics_read():
    example = f"{EXAMPLE}:MyEncoder"
    specs = choose_encoders(MINI, {"dino": example}, inputs={"dino", "clip"})
    assert [(role, spec.name) for role, spec in specs.items()] == [
        ("dino", "colour-layout"), ("clip", "mini-clip"),
    ]  # fmt: skip
    named = {role: spec.name for role, spec in choose_encoders(MINI, {"clip": "mini-clip"}).items()}
    assert named == MINI
    assert fail(choose_encoders, MINI, {"dinp": example}, inputs={"dino"}) == "unknown-name"
    assert fail(choose_encoders, MINI, inputs={"dino", "look"}) == "missing-encoder"
    # A protocol's file never names code.
    assert fail(choose_encoders, {"dino": example}) == "unknown-name"


def test_stored_identities_say_which_option_they_need(tmp_path):
    shutil.copy(EXAMPLE, tmp_path / "my_encoder.py")
    other = {"dino": f"{tmp_path / 'my_encoder.py'}:MyEncoder"}
    with_own, plain = choose_encoders(MINI, other), choose_encoders(MINI)
    stored = {role: spec.identity() for role, spec in with_own.items()}
    check_encoders(stored, with_own, where="here")
    with pytest.raises(UserError, match=r"--encoder dino=my_encoder\.py:MyEncoder") as caught:
        check_encoders(stored, plain, where="here")
    assert caught.value.code == "missing-encoder"
    usual = {role: spec.identity() for role, spec in plain.items()}
    assert fail(check_encoders, usual, with_own, where="here") == "changed-encoder"
    (tmp_path / "my_encoder.py").write_text(EXAMPLE.read_text() + "\n# changed\n")
    changed = choose_encoders(MINI, other)
    assert fail(check_encoders, stored, changed, where="here") == "changed-encoder"


def test_encoders_of_installed_packages_are_found_by_name(tmp_path, monkeypatch):
    (tmp_path / "their_encoders.py").write_text(HEAD)
    folder = tmp_path / "their_encoders-2.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: their-encoders\nVersion: 2.0\n")
    (folder / "entry_points.txt").write_text(f"[{GROUP}]\ntheir-vit = their_encoders:Mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    spec = find_encoder("their-vit", "dino")
    assert spec.identity().startswith("outside:mine:v1:their-vit@")
    assert find_reference(spec.identity()) == "their-vit"
    # A protocol may name it, and so may --encoder.
    assert choose_encoders({"dino": "their-vit"})["dino"] == spec
    assert choose_encoders(MINI, {"dino": "their-vit"})["dino"] == spec
    with pytest.raises(UserError, match="did you mean 'their-vit'") as caught:
        find_encoder("their-vip", "dino")
    assert caught.value.code == "unknown-name"
