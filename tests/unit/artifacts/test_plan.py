"""Protocols, recipes and the plan: what is frozen, what is derived, what is refused."""

import re

import pytest
from conftest import REAL_PHOTOS, TINY_PROTOCOL

from dreambench.artifacts.plan import derive_seed, make_plan
from dreambench.config.protocol import Protocol, choose_prompts, list_protocols, load_protocol
from dreambench.config.recipe import list_recipes, load_recipe
from dreambench.datasets.subjects import Subject, find_dataset, load_subjects
from dreambench.errors import UserError

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


def test_paper_plan_counts_three_thousand_images():
    paper = load_protocol("dreambench")
    subjects = [
        Subject(f"s{i}", "dog" if i < 9 else "toy", "live" if i < 9 else "object", (), ())
        for i in range(30)
    ]
    plan = make_plan(paper, subjects, batch_size=4)
    assert len(plan.train) == 30
    assert sum(unit.prompt_id != "prior" for unit in plan.images) == 3000


def test_seeds_do_not_depend_on_order_batch_or_company():
    whole = make_plan(MINI, MINI_SUBJECTS, batch_size=16)
    alone = make_plan(MINI, MINI_SUBJECTS[3:4], batch_size=5)
    seeds = {(u.subject, u.prompt_id, u.k): u.seed for u in whole.images}
    assert all(seeds[u.subject, u.prompt_id, u.k] == u.seed for u in alone.images)
    assert len(set(seeds.values())) == len(seeds)


def test_batches_stay_within_a_subject_and_a_size():
    plan = make_plan(MINI, MINI_SUBJECTS, batch_size=7)
    for batch in {unit.batch for unit in plan.images}:
        members = [unit for unit in plan.images if unit.batch == batch]
        assert len(members) <= 7
        assert len({unit.subject for unit in members}) == 1


def test_derived_seed_is_frozen():
    # A changed value would change every published image: it stands here in figures.
    assert derive_seed("image", "dog", "jungle", 0, 0) == 119713479847317


def test_scoring_text_leaves_the_identifier_out():
    unit = next(u for u in make_plan(MINI, MINI_SUBJECTS, batch_size=4).images)
    assert "{subject}" in unit.prompt
    assert unit.clip_text == unit.prompt.replace("{subject}", MINI_SUBJECTS[0].class_name)


@pytest.mark.parametrize("name", list_protocols())
def test_shipped_protocols_load_and_have_stable_digests(name):
    assert load_protocol(name).digest() == load_protocol(name).digest()
    assert load_protocol(name).name == name


@pytest.mark.parametrize("name", list_recipes())
def test_shipped_recipes_load(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    # Its authors have it for one base model alone.
    known = {"sd15"} if name == "ip-adapter-plus" else {"mini", "sd15"}
    assert known <= set(recipe.tables)


def change(**parts) -> dict:
    return MINI.model_dump(mode="json") | parts


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('title = "x"\nunknown_key = 1', "unknown_key"),
        ("title = ", "Invalid value"),
        ('title = "x"', "the key 'version' is missing"),
    ],
)
def test_bad_protocol_file_is_named_with_what_is_wrong(tmp_path, text, complaint):
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_protocol(str(path))
    assert complaint in str(caught.value)
    assert "own.toml" in str(caught.value)


def test_prompt_without_slot_and_doubled_id_are_refused():
    prompt = MINI.prompts[0].model_dump()
    with pytest.raises(ValueError, match="needs the slot"):
        Protocol.model_validate(change(prompts=[prompt | {"text": "a dog"}]))
    with pytest.raises(ValueError, match="used twice"):
        Protocol.model_validate(change(prompts=[prompt, prompt]))
    with pytest.raises(ValueError, match="reserved"):
        Protocol.model_validate(change(prompts=[prompt | {"id": "prior"}]))


def test_unknown_names_get_a_suggestion():
    with pytest.raises(UserError, match="did you mean 'mini'"):
        load_protocol("mimi")
    with pytest.raises(UserError, match="did you mean 'dreambooth'"):
        load_recipe("dream-booth")
    with pytest.raises(UserError, match="did you mean 'plushie'"):
        load_subjects(find_dataset("mini"), names=["plushy"])


def test_recipe_without_table_for_a_base_model_says_which_it_has():
    with pytest.raises(UserError, match="it has mini, sd15; add \\[sdxl\\]"):
        load_recipe("dreambooth-no-noun").settings_for("sdxl")


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
    'subjects = ["dog", "mug"]': "sampels = 3", '"clip-i"': '"clipi"', "n_steps = 5": "n_steps = 0",
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
        "needs the slot {subject}": "a dog on", "'prompts.1.family' is missing": "[[prompts]]",
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


def test_narrowing_by_family_and_id():
    assert choose_prompts(MINI, families=(), prompt_ids=()) is None
    assert choose_prompts(MINI, families=("art",), prompt_ids=()) == ("oil-painting",)
    assert choose_prompts(MINI, families=(), prompt_ids=("top", "red")) == ("red", "top")
    with pytest.raises(UserError, match="did you mean 'viewpoint'"):
        choose_prompts(MINI, families=("viewpoints",), prompt_ids=())
    with pytest.raises(UserError, match="no prompt named"):
        choose_prompts(MINI, families=(), prompt_ids=("upside-down",))
    with pytest.raises(UserError, match="both of these families"):
        choose_prompts(MINI, families=("art",), prompt_ids=("red",))
    narrowed = MINI.narrow(("red",))
    assert narrowed.digest() != MINI.digest()
    with pytest.raises(UserError, match="no prompt named"):
        MINI.narrow(("x",))


def test_a_metric_that_is_left_out_costs_no_images():
    without = MINI.model_copy(update={"metrics": ("dino", "clip-t")})
    plan = make_plan(without, MINI_SUBJECTS[:1], batch_size=16)
    assert not any(unit.prompt_id == "prior" for unit in plan.images)
