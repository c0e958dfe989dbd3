"""The plan: which images a run makes, in which batches, from which seeds."""

from hypothesis import assume, given
from hypothesis import strategies as st

from dreambench.artifacts.plan import derive_seed, make_plan
from dreambench.config.protocol import load_protocol
from dreambench.datasets.index import find_dataset
from dreambench.datasets.subjects import Subject, load_subjects

MINI = load_protocol("mini")
MINI_SUBJECTS = load_subjects(find_dataset("mini"))


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
    batches = [unit.batch for unit in plan.images]
    assert batches == sorted(batches)
    for batch in set(batches):
        members = [unit for unit in plan.images if unit.batch == batch]
        assert len(members) <= 7
        assert len({unit.subject for unit in members}) == 1


def test_derived_seed_is_frozen():
    # A changed value would change every published image: it stands here in figures.
    assert derive_seed("image", "dog", "jungle", 0, 0) == 119713479847317


parts = st.one_of(st.integers(), st.text(st.characters(codec="utf-8", exclude_characters="\x1f")))


@given(st.lists(parts, max_size=5))
def test_derived_seed_is_one_of_48_bits_and_the_same_each_time(values):
    seed = derive_seed(*values)
    assert isinstance(seed, int)
    assert 0 <= seed < 2**48
    assert seed == derive_seed(*values)


@given(st.lists(parts, min_size=1, max_size=5), st.data())
def test_derived_seed_changes_with_every_part_and_their_order(values, data):
    index = data.draw(st.integers(0, len(values) - 1))
    other = data.draw(parts)
    assume(str(other) != str(values[index]))
    changed = [*values[:index], other, *values[index + 1 :]]
    assert derive_seed(*changed) != derive_seed(*values)
    assert derive_seed(*values, other) != derive_seed(*values)
    turned = values[::-1]
    assume([str(v) for v in turned] != [str(v) for v in values])
    assert derive_seed(*turned) != derive_seed(*values)


def test_parts_of_a_derived_seed_do_not_run_into_each_other():
    assert derive_seed("image", "dog", "1", 2) != derive_seed("image", "dog", "12")
    assert derive_seed("image", "dog") != derive_seed("imaged", "og")


def test_scoring_text_leaves_the_identifier_out():
    nouns = {subject.name: subject.class_name for subject in MINI_SUBJECTS}
    for unit in make_plan(MINI, MINI_SUBJECTS, batch_size=4).images:
        assert ("{subject}" in unit.prompt) == (unit.prompt_id != "prior")
        assert unit.clip_text == unit.prompt.replace("{subject}", nouns[unit.subject])


def test_a_metric_that_is_left_out_costs_no_images():
    without = MINI.model_copy(update={"metrics": ("dino", "clip-t")})
    plan = make_plan(without, MINI_SUBJECTS[:1], batch_size=16)
    assert not any(unit.prompt_id == "prior" for unit in plan.images)
