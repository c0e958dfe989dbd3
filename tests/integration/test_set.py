"""`--set` on the command line: another row, alongside the plain one, in a folder of its own."""

import pytest
from conftest import LIGHT_PROTOCOL, invoke, refused

from dreambench.storage.files import read_json

RECIPE = 'extends = "real-images"\ntitle = "photos"\n[all]\n{}pictures = "photos"\n'


@pytest.fixture
def own(tmp_path, shared_cache):
    path = tmp_path / "tiny.toml"
    path.write_text(LIGHT_PROTOCOL)
    out = ("--out", tmp_path / "runs", "--device", "cpu", "--cache", shared_cache)
    return ("--protocol", path, *out)


def test_a_set_value_makes_a_row_alongside_the_plain_one(own, tmp_path):
    invoke("run", "--method", "real-images", "--set", "pictures=photos", "--alongside",
           "real-images", "--subjects", "dog", "--prompts", "red", *own)  # fmt: skip
    plain, changed = (
        read_json(tmp_path / "runs" / "tiny" / name / "run.json")
        for name in ("real-images", "real-images+pictures=photos")
    )
    assert changed["recipe"]["settings"] == {"pictures": "photos"}
    assert plain["recipe"]["settings"] == {"pictures": "drawn"}
    assert changed["recipe"]["name"] == "real-images+pictures=photos"
    assert changed["digests"]["recipe"] != plain["digests"]["recipe"]
    assert {**changed["digests"], "recipe": ""} == {**plain["digests"], "recipe": ""}
    report = tmp_path / "runs" / "tiny" / "real-images+pictures=photos"
    assert "real-images+pictures=photos" in (report / "report" / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["--set", "picture=photos"], ["--set", "'picture'", "did you mean 'pictures'?"]),
        (["--set", "pictures=3"], ["--set", "pictures"]),
        (["--set", "pictures"], ["KEY=VALUE"]),
    ],
)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_what_cannot_be_set_is_one_line(own, tmp_path, command, arguments, facts):
    options = own if command == "run" else own[:2]
    line = refused(command, "--method", "real-images", *arguments, *options)
    assert all(fact in line for fact in facts)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("method", "texts", "names"),
    [
        ("dreambooth", ["n_class_images=0"], ["prior_weight"]),
        ("custom-diffusion", ["prior_weight=1", "n_class_images=0"], []),
        ("dreambooth", ["class_noun=none"], ["prior_weight"]),
        ("dreambooth", ["upscaler_n_steps=3", "n_steps=5"], ["upscaler_learning_rate"]),
    ],
)
def test_what_does_not_go_together_is_said_of_the_options(own, method, texts, names):
    options = [word for text in texts for word in ("--set", text)]
    line = refused("plan", "--method", method, *options, *own[:2])
    set_keys = [text.partition("=")[0] for text in texts]
    assert line.startswith(f"dreambench: --set {', '.join(set_keys)}: ")
    assert all(name in line for name in (*set_keys[:1], *names))


def test_a_method_that_lacks_the_key_is_refused(own):
    line = refused("plan", "--method", "real-images,class-only", "--set", "pictures=photos",
                   *own[:2])  # fmt: skip
    assert "'class-only' takes no settings" in line


def test_plan_counts_what_is_set(own):
    found = invoke("plan", "--method", "dreambooth", "--set", "n_steps=7", "--json", *own[:2])
    assert '"dreambooth+n_steps=7"' in found.stdout
    assert '"n_optimizer_steps": 14' in found.stdout


def test_a_misspelt_key_of_a_recipe_is_named_by_file_and_line(own, tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(RECIPE.format("picturs = 1\n"))
    line = refused("plan", "--method", path, *own[:2])
    assert f"{path}:4: unknown key 'picturs'; did you mean 'pictures'?" in line


def test_an_unknown_metric_of_a_protocol_is_named_by_file_and_line(own):
    path = own[1]
    path.write_text(path.read_text().replace('"pres"', '"clipi"'))
    line = refused("run", "--method", "real-images", *own)
    number = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if "clipi" in text)
    assert f"{path}:{number}: no metric named 'clipi'; did you mean 'clip-i'" in line
