"""Raters whose truth is known, for tests and benchmarks of user studies. They are not people.

A rater prefers an image by Davidson's model of Bradley-Terry with ties, with the strengths of both
methods, how the two very images differ, and the rater's own bent; `side` pulls towards the left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dreambench.artifacts.manifest import CodeState, Digests
from dreambench.artifacts.study import (
    Answers,
    Check,
    Comparison,
    Picture,
    Study,
    StudyImage,
    StudyMethod,
    StudySubject,
)
from dreambench.study.analysis import find_pairs, resample
from dreambench.study.plan import ASKS, N_CHECKS, make_sheets
from dreambench.study.votes import make_votes


@dataclass(frozen=True)
class World:
    """How simulated raters choose; strengths are logarithms.

    `image_spread` and `rater_spread` are the standard deviations of what a comparison and a rater
    add to a difference; `side` is what is added for the left image, `ties` Davidson's v, and
    `bad_share` the share of raters who click anywhere.
    """

    strengths: Mapping[str, float]
    image_spread: float = 0.0
    rater_spread: float = 0.0
    side: float = 0.0
    ties: float = 0.2
    bad_share: float = 0.0

    def shares(self, difference: np.ndarray) -> np.ndarray:
        """Chances (n, 3) of preferring the first, the second and neither."""
        root = np.exp(difference / 2)
        parts = np.stack([root, 1 / root, np.full_like(root, 2 * self.ties)], axis=-1)
        return parts / parts.sum(axis=-1, keepdims=True)


def make_plan(
    methods, *, n_sheets=24, n_questions=25, raters_each=3, n_checks=N_CHECKS, metrics=(), seed=0,
    families=("recontextualization", "property"),
):  # fmt: skip
    """A study of drawn comparisons, each pair of methods in turn; no picture is there."""
    pairs = [(a, b) for n, a in enumerate(methods) for b in methods[n + 1 :]]

    def picture(*key):
        import hashlib  # noqa: PLC0415

        name = hashlib.sha256(repr((seed, *key)).encode()).hexdigest()
        return {"sha256": name, "file": name[:16]}

    comparisons = [
        Comparison(
            id=f"c{n:04}", subject="dog", prompt_id=f"p{n}", family=families[n % len(families)],
            text="a dog", first=pairs[n % len(pairs)][0], second=pairs[n % len(pairs)][1],
            first_image=StudyImage(**picture(n, 0), path=f"images/dog/p{n}/0.png"),
            second_image=StudyImage(**picture(n, 1), path=f"images/dog/p{n}/0.png"),
        )
        for n in range(n_sheets * n_questions)
    ]  # fmt: skip
    checks = [
        [
            Check(
                id=f"k{number:03}{asks[0]}{turn}", asks=asks, subject="dog", text="a dog",
                first_image=Picture(**picture("k", number, asks, turn, 0)),
                second_image=Picture(**picture("k", number, asks, turn, 1)),
            )
            for asks in ASKS
            for turn in range(n_checks)
        ]
        for number in range(1, n_sheets + 1)
    ]  # fmt: skip
    return Study(
        protocol="tiny v1", protocol_digest="p0", seed=seed, n_raters=n_sheets * raters_each,
        contact="",
        methods=[
            StudyMethod(name=name, digests=Digests(protocol="p0", data="d0")) for name in methods
        ],
        metrics=list(metrics),
        subjects=[StudySubject(name="dog", class_name="dog", photos=[Picture(**picture("photo"))])],
        comparisons=comparisons, checks=[one for sheet in checks for one in sheet],
        questionnaires=make_sheets(comparisons, checks, seed),
        code=CodeState(version="0"),
    )  # fmt: skip


def simulate(study: Study, world: World, *, seed: int, raters_each=None) -> list[Answers]:
    """Answers of raters of a world, marked as simulated."""
    rng = np.random.default_rng(seed)
    comparisons = {one.id: one for one in study.comparisons}
    added = dict(zip(comparisons, rng.normal(0, world.image_spread, len(comparisons)), strict=True))
    digest = study.digest()
    found = []
    for sheet in study.questionnaires:
        for turn in range(raters_each or study.raters_each):
            bent, is_bad = rng.normal(0, world.rater_spread), rng.random() < world.bad_share
            answers = {}
            for question in sheet.questions:
                one = comparisons.get(question.of)
                if is_bad:
                    shares = np.full(3, 1 / 3)
                elif one is None:
                    shares = np.array([1.0, 0.0, 0.0])
                else:
                    difference = world.strengths[one.first] - world.strengths[one.second]
                    # A bent of its own for each question would be noise of single answers.
                    difference += added[one.id] + bent
                    difference += world.side if question.first_is_left else -world.side
                    shares = world.shares(np.array(difference))
                drawn = rng.choice(3, p=shares)
                left_first = ("left", "right", "neither")
                left_second = ("right", "left", "neither")
                answers[question.id] = (left_first if question.first_is_left else left_second)[
                    drawn
                ]
            name = f"{'bad' if is_bad else 'sim'}-{sheet.number}-{turn}"
            found.append(
                Answers(
                    study=digest, questionnaire=sheet.number, rater=name, simulated=True,
                    answers=answers,
                )
            )  # fmt: skip
    return found


def find_held(study, world, truths, *, seeds):
    """Whether intervals of simulated studies contain the true value, by kind; and their width.

    `truths` has by "answers" and "majority" the true share of the first of two methods.
    """
    held = {"answers": [], "majority": [], "width": []}
    for seed in seeds:
        votes = make_votes(study, simulate(study, world, seed=seed))
        for asks in ASKS:
            for row in find_pairs(asks, *resample(votes, asks, seed=0)):
                share = row.prefers_first
                held[row.of].append(share.low <= truths[row.of] <= share.high)
                if row.of == "answers":
                    held["width"].append(share.high - share.low)
    return {name: float(np.mean(values)) for name, values in held.items()}


def find_truth(world: World, first: str, second: str, *, seed=0, n=200_000) -> np.ndarray:
    """True shares of single answers (first, second, neither) over all images, raters and sides."""
    rng = np.random.default_rng(seed)
    difference = world.strengths[first] - world.strengths[second]
    difference = difference + rng.normal(0, world.image_spread, n)
    difference += rng.normal(0, world.rater_spread, n)
    difference += np.where(rng.random(n) < 0.5, world.side, -world.side)
    return world.shares(difference).mean(axis=0)


def find_majority_truth(world: World, first: str, second: str, *, raters=3, seed=0, n=200_000):
    """True shares of majorities (first, second, undecided) over all images and raters."""
    rng = np.random.default_rng(seed)
    difference = world.strengths[first] - world.strengths[second]
    difference = difference + rng.normal(0, world.image_spread, n)
    difference += np.where(rng.random(n) < 0.5, world.side, -world.side)
    votes = np.zeros((n, 3), int)
    for _ in range(raters):
        shares = world.shares(difference + rng.normal(0, world.rater_spread, n))
        drawn = (rng.random(n)[:, None] > shares.cumsum(axis=1)).sum(axis=1)
        votes[np.arange(n), np.minimum(drawn, 2)] += 1
    first_won = (votes[:, 0] > votes[:, 1]) & (votes[:, 0] > votes[:, 2])
    second_won = (votes[:, 1] > votes[:, 0]) & (votes[:, 1] > votes[:, 2])
    return np.array([first_won.mean(), second_won.mean(), (~first_won & ~second_won).mean()])
