"""Protocols: what the shipped ones hold, and what a custom one is told by file and line."""

import re
from pathlib import Path

import pytest
from conftest import REAL_PHOTOS, TINY_PROTOCOL

from dreambench.benchmark.planning import RunOptions, plan_runs
from dreambench.config.protocol import Protocol, choose_prompts, load_protocol
from dreambench.datasets.index import find_dataset
from dreambench.datasets.subjects import load_subjects
from dreambench.errors import UserError
from dreambench.machine import devices
from dreambench.storage.shipped import cache_dir, shipped_path

MINI = load_protocol("mini")
MINI_SUBJECTS = load_subjects(find_dataset("mini"))
FAMILIES = {"recontextualization", "accessorization", "property", "art", "viewpoint"}


def test_mini_has_all_five_families_and_several_subjects_of_one_class():
    assert {prompt.family for prompt in MINI.prompts} == FAMILIES
    classes = [subject.class_name for subject in MINI_SUBJECTS]
    assert len(classes) > len(set(classes))
    assert all(4 <= len(subject.photos) <= 6 for subject in MINI_SUBJECTS)
    assert all(len(subject.masks) == len(subject.photos) for subject in MINI_SUBJECTS)


def test_paper_protocol_has_25_prompts_a_kind():
    paper = load_protocol("dreambench")
    assert len(paper.prompts_for("live")) == len(paper.prompts_for("object")) == 25
    families = [prompt.family for prompt in paper.prompts_for("live")]
    assert families.count("recontextualization") == families.count("accessorization") == 10
    assert paper.n_images_per_prompt == 4


def change(**parts) -> dict:
    return MINI.model_dump(mode="json") | parts


@pytest.mark.parametrize(
    ("text", "code", "facts"),
    [
        ('title = "x"\nunknown_key = 1', "invalid-value", ["own.toml:2", "'unknown_key'"]),
        ("a = 1\ntitle = ", "invalid-toml", ["own.toml:2"]),
        ('title = "x', "invalid-toml", ["own.toml:1"]),
        ('title = "x"', "missing-key", ["own.toml:1", "'version'"]),
        ("base_seed = 0\nday = 2026-01-01", "invalid-value", ["own.toml:2", "day"]),
    ],
)
def test_bad_protocol_file_is_named_with_what_is_wrong(tmp_path, text, code, facts):
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_protocol(str(path))
    assert caught.value.code == code
    assert all(fact in str(caught.value) for fact in facts)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "own.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"own\.toml") as caught:
        load_protocol(str(path))
    assert caught.value.code == ("missing-file" if content is None else "unreadable-file")


@pytest.mark.parametrize(
    ("right", "wrong", "fact"),
    [
        ("size_px = 64", "size_px = 70", "size_px: must be a multiple of 8, not 70"),
        ("size_px = 64", "size_px = 8", "size_px: must be at least 32, not 8"),
        ("size_px = 64", "size_px = 1000000000", "size_px: must be at most 4096"),
        ("size_px = 64", "size_px = 64.0", "size_px: needs a whole number, not 64.0"),
        ("guidance_scale = 3.0", "guidance_scale = inf", "guidance_scale: needs a finite number"),
        ("guidance_scale = 3.0", "guidance_scale = 1e300", "guidance_scale: must be at most"),
        ("n_steps = 3", "n_steps = true", "n_steps: needs a whole number, not true"),
        ('id = "red"', 'id = "red"\nkinds = []', "kinds: needs at least 1"),
        (
            'text = "a red {subject}"',
            'text = "A {subject}  on the beach"',
            "the text of prompt 'beach'",
        ),
        ('subjects = ["dog", "mug"]', 'subjects = "dog"', "subjects: needs a list in brackets"),
        ("n_images = 2", "n_images = 2.0", "needs a whole number, not 2.0"),
    ],
)
def test_values_that_no_base_model_can_do_are_named_by_line(tmp_path, right, wrong, fact):
    path = tmp_path / "own.toml"
    text = TINY_PROTOCOL.replace(right, wrong)
    assert text != TINY_PROTOCOL
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_protocol(str(path))
    assert caught.value.code == "invalid-value"
    assert fact in str(caught.value)
    line = text[: text.index(wrong)].count("\n") + 1 + wrong.count("\n")
    assert str(caught.value).startswith(f"{path}:{line}: ")


def test_two_prompts_of_one_text_are_for_two_kinds(tmp_path):
    path = tmp_path / "own.toml"
    text = TINY_PROTOCOL.replace("a red {subject}", "a {subject} on the beach")
    text = text.replace('id = "beach"', 'id = "beach"\nkinds = ["live"]')
    path.write_text(text.replace('id = "red"', 'id = "red"\nkinds = ["object"]'))
    assert len(load_protocol(str(path)).prompts) == 2


def write_dataset(folder):
    folder.mkdir(parents=True)
    for name in ("subjects.csv", "images.csv"):
        text = (find_dataset("mini").index_dir / name).read_text()
        (folder / name).write_text(text)
    return folder


def test_a_dataset_is_meant_from_the_protocols_folder_or_the_working_folder(tmp_path, monkeypatch):
    path = tmp_path / "a" / "own.toml"
    path.parent.mkdir()
    path.write_text(TINY_PROTOCOL.replace('dataset = "mini"', 'dataset = "subs"'))
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "b")
    with pytest.raises(UserError, match=r"own.toml:5: no dataset named 'subs'") as caught:
        load_protocol("../a/own.toml")
    for tried in (tmp_path / "b" / "subs", tmp_path / "b" / ".." / "a" / "subs"):
        assert str(tried) in str(caught.value)
    here = write_dataset(tmp_path / "b" / "subs")
    assert load_protocol("../a/own.toml").find_dataset().index_dir.resolve() == here
    beside = write_dataset(tmp_path / "a" / "subs")
    protocol = load_protocol("../a/own.toml")
    assert protocol.find_dataset().index_dir.resolve() == beside
    assert protocol.narrow(["red"]).find_dataset().index_dir.resolve() == beside
    # Read back from a run's folder it has no file any more.
    monkeypatch.chdir(tmp_path)
    read_back = Protocol.model_validate(protocol.model_dump(mode="json"))
    assert read_back.digest() == protocol.digest()
    run_dir = tmp_path / "a" / "runs" / "own" / "dreambooth"
    assert read_back.find_dataset(near=run_dir).index_dir.resolve() == beside
    with pytest.raises(UserError):
        read_back.find_dataset()


def test_a_dataset_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = write_dataset(tmp_path / "subs")
    assert find_dataset("~/subs").index_dir == folder
    monkeypatch.setenv("DREAMBENCH_DATA", "~/photos ")
    assert find_dataset("dreambooth").photos_dir == tmp_path / "photos"
    assert find_dataset("dreambooth", photos_dir=Path("~/x")).photos_dir == tmp_path / "x"
    monkeypatch.setenv("DREAMBENCH_CACHE", "~/cache")
    assert cache_dir() == tmp_path / "cache"


def test_byte_order_mark_and_windows_lines_change_nothing(tmp_path):
    (tmp_path / "plain.toml").write_text('name = "x"\n' + TINY_PROTOCOL)
    text = 'name = "x"\n' + TINY_PROTOCOL
    (tmp_path / "marked.toml").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    plain, marked = (load_protocol(str(tmp_path / f"{name}.toml")) for name in ("plain", "marked"))
    assert plain == marked
    assert plain.digest() == marked.digest()
    assert marked.locate("title") == f"{tmp_path / 'marked.toml'}:3"


@pytest.mark.parametrize(
    ("right", "wrong", "key"),
    [
        ("n_steps = 3", 'n_steps = "5"', "sampler.n_steps"),
        ("n_steps = 3", "n_steps = 5.0", "sampler.n_steps"),
        ("n_steps = 3", "n_steps = true", "sampler.n_steps"),
        ("guidance_scale = 3.0", 'guidance_scale = "3.0"', "sampler.guidance_scale"),
        ("guidance_scale = 3.0", "guidance_scale = true", "sampler.guidance_scale"),
        ("guidance_scale = 3.0", "guidance_scale = inf", "sampler.guidance_scale"),
        ("guidance_scale = 3.0", "guidance_scale = nan", "sampler.guidance_scale"),
        ("guidance_scale = 3.0", f"guidance_scale = {10**400}", "sampler.guidance_scale"),
        ("version = 1", 'version = "1"', "version"),
        ('dataset = "mini"', "dataset = 3", "dataset"),
    ],
)
def test_a_number_is_a_number(tmp_path, right, wrong, key):
    path = tmp_path / "own.toml"
    path.write_text(TINY_PROTOCOL.replace(right, wrong))
    with pytest.raises(UserError) as caught:
        load_protocol(str(path))
    number = path.read_text().splitlines().index(wrong) + 1
    assert caught.value.code == "invalid-value"
    assert str(caught.value).startswith(f"{path}:{number}: {key}: ")


def test_a_whole_number_where_a_fraction_may_stand_is_the_same_protocol(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(TINY_PROTOCOL)
    wanted = load_protocol(str(path)).digest()
    path.write_text(TINY_PROTOCOL.replace("guidance_scale = 3.0", "guidance_scale = 3"))
    assert load_protocol(str(path)).digest() == wanted


def test_metrics_are_names_that_a_plug_in_may_bring(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(TINY_PROTOCOL.replace('"clip-i"', '"my-metric2"'))
    assert load_protocol(str(path)).metrics[1] == "my-metric2"
    for wrong in ("Clip_I", "clip-", "", "dino"):
        path.write_text(TINY_PROTOCOL.replace('"clip-i"', f'"{wrong}"'))
        with pytest.raises(UserError) as caught:
            load_protocol(str(path))
        assert caught.value.code == "invalid-value"
        assert str(caught.value).startswith(f"{path}:9: metrics")


def test_where_a_protocol_was_read_is_not_part_of_it(tmp_path):
    path = tmp_path / "mini.toml"
    path.write_text("# moved\n" + shipped_path("protocols", "mini.toml").read_text())
    moved = load_protocol(str(path))
    assert (moved, moved.digest(), hash(moved)) == (MINI, MINI.digest(), hash(MINI))
    lines = path.read_text().splitlines()
    assert moved.locate("metrics") == f"{path}:{lines.index(_line(lines, 'metrics')) + 1}"
    assert moved.locate("encoders", "dino") == f"{path}:{lines.index(_line(lines, 'dino')) + 1}"
    assert moved.locate("prompts", 1, "id") == f"{path}:{lines.index(_line(lines, 'id', 1)) + 1}"
    assert moved.locate("metrics", 2) == moved.locate("metrics")
    assert moved.narrow(["red"]).locate("metrics") == moved.locate("metrics")
    assert moved.locate("nothing") == f"{path}:1"
    again = Protocol.model_validate(moved.model_dump(mode="json"))
    assert again == moved
    assert again.locate("metrics") == "protocol 'mini'"


def _line(lines, key, index=0):
    return [line for line in lines if line.startswith(f"{key} = ")][index]


def test_prompt_without_slot_and_doubled_id_are_refused():
    prompt = MINI.prompts[0].model_dump()
    for text in ("a dog", "a {subject} {x}", "a {subject!r}", "a {subject:>9}", "a {subject", "{}"):
        with pytest.raises(ValueError, match=r"prompts\.0\.text"):
            Protocol.model_validate(change(prompts=[prompt | {"text": text}]))
    with pytest.raises(ValueError, match="used twice"):
        Protocol.model_validate(change(prompts=[prompt, prompt]))
    with pytest.raises(ValueError, match="reserved"):
        Protocol.model_validate(change(prompts=[prompt | {"id": "prior"}]))


def test_unknown_names_get_a_suggestion():
    with pytest.raises(UserError, match="did you mean 'mini'") as caught:
        load_protocol("mimi")
    assert caught.value.code == "unknown-name"
    with pytest.raises(UserError, match="did you mean 'plushie'"):
        load_subjects(find_dataset("mini"), names=["plushy"])


def test_applications_have_eight_prompts_a_family_for_each_kind_that_has_it():
    protocol = load_protocol("applications")
    for kind, n_families in (("live", 5), ("object", 4)):
        families = [prompt.family for prompt in protocol.prompts_for(kind)]
        assert len(set(families)) == n_families
        assert all(families.count(family) >= 8 for family in families)


def test_prompts_of_the_paper_are_those_of_the_dataset():
    path = REAL_PHOTOS / "prompts_and_classes.txt"
    if not path.is_file():
        pytest.skip("needs the dataset's own prompt list")
    found = re.findall(r"^'(.*)'\.format", path.read_text(), flags=re.MULTILINE)
    wanted = [text.replace("{0} {1}", "{subject}") for text in found]
    paper = load_protocol("dreambench")
    for kind, texts in (("object", wanted[:25]), ("live", wanted[25:])):
        assert sorted(prompt.text for prompt in paper.prompts_for(kind)) == sorted(texts)


FAULTS = {
    'subjects = ["dog", "mug"]': "sampels = 3", '"clip-i"': '"clip_"', "n_steps = 3": "n_steps = 0",
    "a {subject} on the beach": "a dog on the beach", 'family = "property"': 'famly = "property"',
}  # fmt: skip
FAULTY = TINY_PROTOCOL
for _right, _wrong in FAULTS.items():
    FAULTY = FAULTY.replace(_right, _wrong)


def test_all_faults_of_a_protocol_are_said_at_once_with_file_and_line(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(FAULTY)
    with pytest.raises(UserError) as caught:
        load_protocol(str(path))
    lines = str(caught.value).splitlines()
    texts = FAULTY.splitlines()
    wanted = {
        "metrics.1": "metrics = ", "sampels": "sampels", "n_steps": "n_steps = 0",
        "lacks the slot {subject}": "a dog on", "'prompts.1.family' is missing": "[[prompts]]",
        "unknown key 'famly'; did you mean 'family'?": "famly",
    }  # fmt: skip
    assert len(lines) == len(wanted)
    for said, at in wanted.items():
        (line,) = [line for line in lines if said in line]
        number = int(line.removeprefix(f"{path}:").split(":")[0])
        assert at in texts[number - 1]


def test_unknown_subjects_and_datasets_of_a_protocol_name_file_and_line(tmp_path):
    path = tmp_path / "own.toml"
    good = TINY_PROTOCOL.replace('["dog", "mug"]', '["dgo", "mug", "moose"]')
    path.write_text(good)
    with pytest.raises(UserError) as caught:
        load_protocol(str(path))
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{path}:6: no subject named 'dgo'; did you mean 'dog'")
    assert "moose" in second
    path.write_text(good.replace('"dgo"', '"dog"').replace(', "moose"', ""))
    assert load_protocol(str(path)).subjects == ("dog", "mug")
    path.write_text(good.replace('dataset = "mini"', 'dataset = "minni"'))
    with pytest.raises(UserError, match=r"own.toml:5: no dataset named 'minni'"):
        load_protocol(str(path))


def test_narrowing_by_prompt_category_and_id():
    assert choose_prompts(MINI, families=(), prompt_ids=()) is None
    assert choose_prompts(MINI, families=("art",), prompt_ids=()) == ("oil-painting",)
    assert choose_prompts(MINI, families=(), prompt_ids=("top", "red")) == ("red", "top")
    for families, prompt_ids, code in (
        (("viewpoints",), (), "unknown-name"),
        ((), ("upside-down",), "unknown-name"),
        (("art",), ("red",), "nothing-left"),
    ):
        with pytest.raises(UserError) as caught:
            choose_prompts(MINI, families=families, prompt_ids=prompt_ids)
        assert caught.value.code == code
    narrowed = MINI.narrow(("red",))
    assert narrowed.digest() != MINI.digest()
    with pytest.raises(UserError, match="'x'"):
        MINI.narrow(("x",))


def test_precision_is_part_of_the_digest_where_it_is_not_the_default(tmp_path):
    found = {}
    for value in ("", "fp32", "bf16", "fp16"):
        path = tmp_path / f"p{value}.toml"
        line = f'precision = "{value}"\n' if value else ""
        path.write_text(f'name = "p"\n{line}{TINY_PROTOCOL}')
        if value == "fp16":
            with pytest.raises(UserError, match="precision"):
                load_protocol(str(path))
            continue
        found[value] = load_protocol(str(path))
    assert found[""].digest() == found["fp32"].digest() != found["bf16"].digest()
    assert "precision" not in found["fp32"].model_dump(mode="json")
    assert found["bf16"].model_dump(mode="json")["precision"] == "bf16"
    assert Protocol.model_validate(found["bf16"].model_dump(mode="json")) == found["bf16"]


def test_a_run_takes_the_protocols_precision_on_a_gpu_and_fp32_on_a_cpu(tmp_path):
    pick = devices.pick_precision
    assert pick(None, protocols="bf16", device="cuda:1") == "bf16"
    assert pick(None, protocols="fp32", device="cuda") == "fp32"
    assert pick("fp32", protocols="bf16", device="cuda") == "fp32"
    path = tmp_path / "p.toml"
    path.write_text(f'precision = "bf16"\n{TINY_PROTOCOL}')
    for asked, taken in ((None, "fp32"), ("bf16", "bf16")):
        options = RunOptions(
            methods=["class-only"], protocol=str(path), out=tmp_path / taken, device="cpu",
            precision=asked,
        )  # fmt: skip
        assert {run.manifest.precision for run in plan_runs(options)} == {taken}
