"""Protocols, recipes and the plan: what is frozen, what is derived, what is refused."""

import pytest

from dreambench.errors import UserError
from dreambench.plan import derive_seed, make_plan
from dreambench.protocol import Protocol, list_protocols, load_protocol
from dreambench.recipe import list_recipes, load_recipe
from dreambench.subjects import Subject, find_dataset, load_subjects

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
    assert {"mini", "sd15"} <= set(recipe.tables)


def change(**parts) -> dict:
    return MINI.model_dump(mode="json") | parts


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('title = "x"\nunknown_key = 1', "unknown_key"),
        ("title = ", "Invalid value"),
        ('title = "x"', "Field required"),
    ],
)
def test_bad_protocol_file_is_one_line_that_names_it(tmp_path, text, complaint):
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_protocol(str(path))
    assert complaint in str(caught.value)
    assert "own.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


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
        load_recipe("dreambooth").settings_for("sdxl")
