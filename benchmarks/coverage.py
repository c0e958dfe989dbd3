"""Coverage of the 95 % intervals, and the type I error of the paired test.

    python benchmarks/coverage.py --out reports/benchmarks
    python benchmarks/coverage.py --measure runs/mini/dreambooth runs/mini/dreambooth-no-prior

The first simulates scores whose truth is known, in the shape of the paper's protocol, and gives
them as tidy frames to `stats.estimate_table`, `compare.compare_paired` and `stats.adjust_holm`, the
functions that a run's numbers come from. Besides: the coverage of
other intervals. The second prints the spreads to simulate with, SPREADS below, as two runs on mini
have them.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy

from dreambench.analysis.comparison import ALPHA, compare_paired
from dreambench.analysis.stats import (
    CONFIDENCE,
    N_RESAMPLES,
    adjust_holm,
    compute_bootstrap_p,
    compute_sign_flip_p,
    estimate_by_bootstrap,
    estimate_mean,
    estimate_table,
)
from dreambench.machine.environment import describe_code
from dreambench.storage.files import write_bytes, write_json
from dreambench.storage.shipped import shipped_path

# The paper's protocol: 25 prompts, 4 images each.
N_PROMPTS, N_IMAGES = 25, 4
N_SUBJECTS = (10, 30)
N_FAST_RESAMPLES = 999
N_TESTS_OF_A_FAMILY = 15
CHUNK = 200
COVERAGE_ASKED = (0.935, 0.965)
ALARMS_ASKED = (0.035, 0.065)


@dataclass(frozen=True)
class Spread:
    """Standard deviations of what a score is a sum of.

    A subject's own level; a prompt's, the same for all subjects; what a prompt does to one subject;
    an image's chance.
    """

    subject: float
    prompt: float
    cell: float
    image: float


# Printed by --measure, of `dreambench run --method dreambooth --alongside dreambooth-no-prior` on
# mini (CPU, protocol 48072c2c3843ae0b, recipes b1c7bfdd49e8c72a and 7e5106e1cda7e26e). Rough
# figures, since these are eight subjects.
SPREADS = {
    "dino": Spread(0.131, 0.127, 0.124, 0.167),
    "clip-i": Spread(0.117, 0.036, 0.075, 0.058),
    "clip-t": Spread(0.051, 0.115, 0.075, 0.062),
    "dino, difference": Spread(0.116, 0.049, 0.101, 0.152),
    "clip-t, difference": Spread(0.022, 0.025, 0.038, 0.066),
}
# Of eight subjects in DINO, from the same: dreambooth, dreambooth-no-prior, and their difference.
MEASURED_SKEWNESS = (-1.32, 1.39, -0.58)
SKEWNESS = MEASURED_SKEWNESS[2]
STRONG_SKEWNESS = -1.4

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


@dataclass(frozen=True)
class Scenario:
    """A world to draw from. `draw` gives subjects' own values, whose expectation is `truth`."""

    title: str
    source: str
    spread: Spread
    draw: Draw
    truth: float = 0.0
    new_prompts: bool = False


def draw_normal(sd: float) -> Draw:
    return lambda rng, shape: rng.normal(0, sd, shape)


def draw_real(column: str) -> Draw:
    """Subjects as the 30 real ones, drawn with replacement."""
    known = pd.read_csv(shipped_path("dataset", "golden.csv"))[column].to_numpy()
    return lambda rng, shape: rng.choice(known, shape)


def draw_bounded(mean: float, sd: float) -> Draw:
    """A beta distribution on [0, 1] with this mean and deviation."""
    total = mean * (1 - mean) / sd**2 - 1
    return lambda rng, shape: rng.beta(mean * total, (1 - mean) * total, shape)


def draw_skewed(skewness: float, sd: float) -> Draw:
    """A bounded distribution (beta) with mean 0, this deviation and this negative skewness."""
    b = 1.2
    a = scipy.optimize.brentq(
        lambda a: float(scipy.stats.beta.stats(a, b, moments="s")) - skewness, b, 1e4
    )
    mean, variance = (float(m) for m in scipy.stats.beta.stats(a, b, moments="mv"))
    return lambda rng, shape: (rng.beta(a, b, shape) - mean) / np.sqrt(variance) * sd


def draw_failures(share: float, loss: float, sd: float) -> Draw:
    """Most subjects alike; a share of them falls by `loss`. Mean 0."""
    return lambda rng, shape: (
        rng.normal(0, sd, shape) - loss * ((rng.random(shape) < share) - share)
    )


def make_run_scenarios() -> tuple[list[Scenario], list[Scenario]]:
    """Means of one run: what is asked to be covered, and limits that are shown only."""
    golden = pd.read_csv(shipped_path("dataset", "golden.csv"))
    dino, clip = golden["dino_without_self"], golden["clip_i_without_self"]
    mini, photos = "spreads of mini", "the real photos (dataset/golden.csv) and spreads of mini"
    asked = [
        Scenario(
            "DINO, normal subjects", mini, SPREADS["dino"], draw_normal(SPREADS["dino"].subject)
        ),
        Scenario(
            "DINO, skewed and bounded subjects", f"{photos}; a beta with their mean and deviation",
            SPREADS["dino"], draw_bounded(dino.mean(), dino.std()), dino.mean(),
        ),
        Scenario(
            "DINO, the 30 real subjects", f"{photos}; drawn with replacement", SPREADS["dino"],
            draw_real("dino_without_self"), dino.mean(),
        ),
        Scenario(
            "CLIP-I, the 30 real subjects", f"{photos}; drawn with replacement",
            SPREADS["clip-i"], draw_real("clip_i_without_self"), clip.mean(),
        ),
        Scenario(
            "CLIP-T, normal subjects", mini, SPREADS["clip-t"],
            draw_normal(SPREADS["clip-t"].subject),
        ),
    ]  # fmt: skip
    limits = [
        Scenario(
            f"DINO, strongly skewed subjects ({STRONG_SKEWNESS})", mini, SPREADS["dino"],
            draw_skewed(STRONG_SKEWNESS, SPREADS["dino"].subject),
        ),
        Scenario(
            "DINO, one subject in ten is not learned", "made up, with spreads of mini",
            SPREADS["dino"], draw_failures(0.1, 0.5, SPREADS["dino"].subject / 2),
        ),
        Scenario(
            "DINO, were prompts drawn anew each time", mini, SPREADS["dino"],
            draw_normal(SPREADS["dino"].subject), new_prompts=True,
        ),
    ]  # fmt: skip
    return asked, limits


def make_pair_scenarios() -> tuple[list[Scenario], list[Scenario]]:
    """Differences of two runs that are 0 in truth; as `make_run_scenarios`."""
    mini, dino = "spreads of mini", SPREADS["dino, difference"]
    clip = SPREADS["clip-t, difference"]
    noise = draw_bounded(0.721, 0.118)
    asked = [
        Scenario("DINO, normal differences", mini, dino, draw_normal(dino.subject)),
        Scenario(
            f"DINO, skewed and bounded differences ({SKEWNESS})", f"{mini}, and their skewness",
            dino, draw_skewed(SKEWNESS, dino.subject),
        ),
        Scenario(
            "DINO, a method trained twice, bounded",
            "spreads of mini; each time a beta as for the real photos", dino,
            lambda rng, shape: noise(rng, shape) - noise(rng, shape),
        ),
        Scenario("CLIP-T, normal differences", mini, clip, draw_normal(clip.subject)),
    ]  # fmt: skip
    limits = [
        Scenario(
            f"DINO, strongly skewed differences ({STRONG_SKEWNESS})", mini, dino,
            draw_skewed(STRONG_SKEWNESS, dino.subject),
        ),
        Scenario(
            "DINO, one method fails on one subject in ten", "made up, with spreads of mini", dino,
            draw_failures(0.1, 0.5, dino.subject / 2),
        ),
    ]  # fmt: skip
    return asked, limits


def draw_scores(
    scenario: Scenario, rng: np.random.Generator, n_simulations: int, n_subjects: int
) -> Iterator[np.ndarray]:
    """Scores of images in chunks: (simulations, subjects, prompts, images).

    The prompts are the protocol's: their effects are drawn once and sum to 0, unless
    `new_prompts`.
    """
    spread = scenario.spread
    fixed = rng.normal(0, spread.prompt, N_PROMPTS)
    fixed -= fixed.mean()
    for start in range(0, n_simulations, CHUNK):
        n = min(CHUNK, n_simulations - start)
        prompts = rng.normal(0, spread.prompt, (n, N_PROMPTS)) if scenario.new_prompts else fixed
        subjects = scenario.draw(rng, (n, n_subjects))
        cells = rng.normal(0, spread.cell, (n, n_subjects, N_PROMPTS))
        cells += subjects[:, :, None] + np.broadcast_to(prompts, (n, N_PROMPTS))[:, None, :]
        images = rng.normal(0, spread.image, (n, n_subjects, N_PROMPTS, N_IMAGES))
        yield cells[..., None] + images


def make_frame(scores: np.ndarray) -> pd.DataFrame:
    """Tidy scores, one row a cell; each simulation takes the place of a metric."""
    n, n_subjects, n_prompts, n_images = scores.shape
    metric, subject, prompt = np.indices((n, n_subjects, n_prompts)).reshape(3, -1)
    return pd.DataFrame(
        {
            "metric": metric,
            "subject": subject,
            "prompt_id": prompt,
            "value": scores.mean(axis=3).ravel(),
            "n_pairs": n_images,
        }
    )


def resample(n: int, rng: np.random.Generator) -> np.ndarray:
    """Shares of n things in bootstrap samples of them: (N_FAST_RESAMPLES, n)."""
    return rng.multinomial(n, np.full(n, 1 / n), N_FAST_RESAMPLES) / n


def percentile_bounds(values: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap of the mean: (simulations, n) -> low and high."""
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(values @ shares.T, [tail, 100 - tail], axis=1)
    return low, high


def studentized_bounds(values: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap-t of the mean: the quantiles of t are those of the resamples, not Student's."""
    mean, error = values.mean(axis=1), scipy.stats.sem(values, axis=1)
    means = values @ shares.T
    squares = np.maximum((values**2) @ shares.T - means**2, 1e-12)
    ratios = (means - mean[:, None]) / np.sqrt(squares / (values.shape[1] - 1))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail], axis=1)
    return mean - high * error, mean - low * error


def simulate(
    scenario: Scenario, n_simulations: int, n_subjects: int, *, paired: bool, seeds: list[int]
) -> dict[str, float]:
    """Coverage of each interval, and the type I error, as shares of the simulations."""
    rng = np.random.default_rng(seeds)
    by_subject = resample(n_subjects, rng)
    by_image = resample(n_subjects * N_PROMPTS * N_IMAGES, rng)
    held: dict[str, list[np.ndarray]] = {}
    widths, p_values = [], []
    for scores in draw_scores(scenario, rng, n_simulations, n_subjects):
        if paired:
            # What both runs share cancels: subjects and prompts as real ones differ.
            second = rng.normal(0.5, SPREADS["dino"].subject, scores.shape[:2])[:, :, None, None]
            second = np.broadcast_to(second, scores.shape)
            table = compare_paired(make_frame(second + scores), make_frame(second))
            p_values.append(table["p"].to_numpy())
        else:
            table = estimate_table(make_frame(scores))
        subjects = scores.mean(axis=(2, 3))
        student = table["low"].to_numpy(), table["high"].to_numpy()
        studentized = studentized_bounds(subjects, by_subject)
        widths.append((studentized[1] - studentized[0]) / (student[1] - student[0]))
        for name, (low, high) in {
            "student": student,
            "studentized": studentized,
            "percentile": percentile_bounds(subjects, by_subject),
            "images": percentile_bounds(scores.reshape(len(scores), -1), by_image),
        }.items():
            held.setdefault(name, []).append((low <= scenario.truth) & (scenario.truth <= high))
    found = {name: float(np.concatenate(parts).mean()) for name, parts in held.items()}
    found["studentized_width"] = float(np.median(np.concatenate(widths)))
    if paired:
        p = np.concatenate(p_values)
        found["alarms"] = float((p <= ALPHA).mean())
        families = p[: len(p) // N_TESTS_OF_A_FAMILY * N_TESTS_OF_A_FAMILY]
        adjusted = [adjust_holm(f) for f in families.reshape(-1, N_TESTS_OF_A_FAMILY)]
        found["holm_alarms"] = float((np.min(adjusted, axis=1) <= ALPHA).mean())
    return found


SKEWED_WORLDS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, shape: rng.normal(0, 1, shape), 0.0),
    "exponential": (lambda rng, shape: rng.exponential(1, shape), 1.0),
    "lognormal, sigma 0.5": (lambda rng, shape: rng.lognormal(0, 0.5, shape), np.exp(0.125)),
    "lognormal, sigma 1": (lambda rng, shape: rng.lognormal(0, 1, shape), np.exp(0.5)),
    "difference of a beta(5, 1) and its mean": (lambda rng, shape: rng.beta(5, 1, shape), 5 / 6),
}
"""What a subject's value is drawn from, with its expectation. Held against no model of images."""
SKEWED_SUBJECTS = (8, 10, 30)


def simulate_skewed(n_simulations: int, seed: int) -> list[dict[str, object]]:
    """How often each way is right where subjects are skewed, from their values alone."""
    found: list[dict[str, object]] = []
    for index, (name, (draw, truth)) in enumerate(SKEWED_WORLDS.items()):
        for n in SKEWED_SUBJECTS:
            rng = np.random.default_rng([seed, 1000 + index, n])
            held: dict[str, list[bool]] = {"student": [], "bootstrap_t": [], "bca": []}
            alarms: dict[str, list[bool]] = {"flips": [], "bootstrap_t": []}
            widths = []
            for values in draw(rng, (n_simulations, n)):
                student, ratio = estimate_mean(values), estimate_by_bootstrap(values)
                bca = scipy.stats.bootstrap(
                    (values,), np.mean, n_resamples=N_RESAMPLES, method="BCa", rng=rng
                ).confidence_interval
                for way, low, high in (
                    ("student", student.low, student.high),
                    ("bootstrap_t", ratio.low, ratio.high), ("bca", bca.low, bca.high),
                ):  # fmt: skip
                    held[way].append(bool(low <= truth <= high))
                widths.append((ratio.high - ratio.low) / (student.high - student.low))
                alarms["flips"].append(compute_sign_flip_p(values - truth) <= ALPHA)
                alarms["bootstrap_t"].append(compute_bootstrap_p(values - truth) <= ALPHA)
            found.append(
                {
                    "drawn": name, "n_subjects": n, "n_simulations": n_simulations,
                    "held": {way: float(np.mean(parts)) for way, parts in held.items()},
                    "alarms": {way: float(np.mean(parts)) for way, parts in alarms.items()},
                    "width": float(np.median(widths)),
                }
            )  # fmt: skip
            print(json.dumps(found[-1]), flush=True)
    return found


def make_skewed_section(rows: list[dict]) -> list[str]:
    """The table of `simulate_skewed`, and what it says."""
    table = pd.DataFrame(
        [
            {
                "subjects drawn from": row["drawn"], "subjects": row["n_subjects"],
                "Student t (default)": percent(row["held"]["student"]),
                "bootstrap-t": f"{percent(row['held']['bootstrap_t'])} "
                f"({row['width']:.2f} as wide)",
                "BCa": percent(row["held"]["bca"]),
                "type I error, sign flips (default)": percent(row["alarms"]["flips"]),
                "type I error, bootstrap-t": percent(row["alarms"]["bootstrap_t"]),
            }
            for row in rows
        ]
    )  # fmt: skip
    return [
        "## Skewed subjects, and what does better",
        "",
        f"Values of subjects alone, {rows[0]['n_simulations']} simulations a line (standard error "
        f"about {standard_error(rows[0]['n_simulations']):.1f} points; more at lower coverage).",
        "",
        table.to_markdown(index=False, disable_numparse=True),
        "",
        "- A sign flip changes no value's square, so that a studentised sign-flip test orders the "
        "flips as the plain one does and is the same test. It asks whether differences are "
        "symmetric around zero; the bootstrap-t asks whether their mean is zero.",
        "- BCa corrects a percentile interval, which is too narrow for so few subjects to begin "
        "with.",
        "- `dreambench compare --interval bootstrap-t` gives interval and test by the bootstrap-t.",
        "",
    ]


def measure_spread(scores: pd.DataFrame) -> tuple[Spread, float]:
    """Components of variance of one metric, by moments, and the skewness of the subjects' means.

    `scores` has subject, prompt_id, k, value: crossed, with prompts that only some subjects get.
    """
    by_cell = scores.groupby(["subject", "prompt_id"])["value"]
    n_images, image = by_cell.size().mean(), by_cell.var().mean()
    cells = by_cell.mean().unstack()
    subjects = cells.mean(axis=1)
    left = cells.sub(subjects, axis=0)
    prompts = left.mean()
    n_cells, (n_subjects, n_prompts) = cells.notna().to_numpy().sum(), cells.shape
    residual = np.nansum((left - prompts).to_numpy() ** 2)
    residual /= n_cells - n_subjects - n_prompts + 1
    variances = (
        subjects.var() - residual * n_subjects / n_cells,
        prompts.var() - residual * n_prompts / n_cells,
        residual - image / n_images,
        image,
    )
    skewness = float(scipy.stats.skew(subjects, bias=False))
    return Spread(*(float(np.sqrt(max(v, 0.0))) for v in variances)), skewness


def print_spreads(first_dir: Path, second_dir: Path) -> None:
    first, second = (pd.read_parquet(d / "scores.parquet") for d in (first_dir, second_dir))
    gaps = first.merge(second, on=["metric", "subject", "prompt_id", "k"], suffixes=("", "_second"))
    gaps["value"] -= gaps["value_second"]
    for title, frame in ((first_dir.name, first), (second_dir.name, second), ("difference", gaps)):
        for metric in ("dino", "clip-i", "clip-t"):
            spread, skewness = measure_spread(frame[frame["metric"] == metric])
            numbers = ", ".join(f"{value:.3f}" for value in asdict(spread).values())
            print(f"{title:22} {metric:7} Spread({numbers})  skewness {skewness:.2f}")


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def make_rows(results: list[dict], *, asked: bool, paired: bool) -> pd.DataFrame:
    rows = []
    for result in results:
        if (result["asked"], result["paired"]) != (asked, paired):
            continue
        row = {
            "simulated": result["title"],
            "subjects": result["n_subjects"],
            "Student t (dreambench)": percent(result["student"]),
        }
        if asked:
            row["in 93.5 to 96.5"] = "yes" if result["coverage_met"] else "no"
        row |= {
            "bootstrap-t over subjects": f"{percent(result['studentized'])} "
            f"({result['studentized_width']:.2f} as wide)",
            "percentile bootstrap over subjects": percent(result["percentile"]),
            "images as if independent": percent(result["images"]),
        }
        if paired:
            row["type I error (dreambench)"] = percent(result["alarms"])
            if asked:
                row["in 3.5 to 6.5"] = "yes" if result["alarms_met"] else "no"
            row[f"after Holm, any of {N_TESTS_OF_A_FAMILY}"] = percent(result["holm_alarms"])
        rows.append(row)
    return pd.DataFrame(rows)


def make_page(found: dict) -> str:
    results = found["results"]
    asked = [r for r in results if r["asked"]]

    def table(**which: bool) -> list[str]:
        return [make_rows(results, **which).to_markdown(index=False, disable_numparse=True), ""]

    def span(name: str, **which: object) -> str:
        values = [r[name] for r in asked if all(r[k] == v for k, v in which.items())]
        return f"{percent(min(values))} to {percent(max(values))}"

    strong = next(r for r in results if "strongly" in r["title"] and r["n_subjects"] == 10)
    skewed = next(r for r in results if "strongly" in r["title"] and r["paired"])
    failing = [r["student"] for r in results if "in ten" in r["title"] and r["n_subjects"] == 10]
    anew = [r["student"] for r in results if "anew" in r["title"]]
    sources = dict.fromkeys(f"- {r['title']}: {r['source']}." for r in results)
    lines = [
        "# Coverage of the 95 % intervals, and type I error of the paired test",
        "",
        f"Made by `{found['command']}` in {found['seconds']:.0f} s of processor time. Simulations "
        f"of each line: {found['n_simulations']} for means and {found['n_paired_simulations']} for "
        "differences, a quarter of these for limits; standard errors about "
        f"{found['error']:.1f} and {found['paired_error']:.1f} points, twice that for limits. Seed "
        f"{found['seed']}. Python {found['python']}, numpy {found['numpy']}, scipy "
        f"{found['scipy']}, dreambench {found['code']['version']}.",
        "",
        "All numbers are percent. Each simulation has the shape of the paper's protocol "
        f"({N_PROMPTS} prompts, {N_IMAGES} images) and goes through dreambench's own functions.",
        "",
        "## Means of one run: how often the interval contains the true value",
        "",
        *table(asked=True, paired=False),
        "## Differences of two runs that do not differ, paired by subject and prompt",
        "",
        *table(asked=True, paired=True),
        "The type I error is the share of sign-flip p-values of at most .05. The last column: how "
        f"often at least one of {N_TESTS_OF_A_FAMILY} such tests passes Holm's adjustment "
        f"(standard error about {found['family_error']:.1f} points).",
        "",
        "## Limits, where less can be promised",
        "",
        "How skewed real methods' subjects are is not well known: the eight of mini have in DINO "
        f"{MEASURED_SKEWNESS[0]} (dreambooth), {MEASURED_SKEWNESS[1]} (dreambooth-no-prior) and "
        f"{MEASURED_SKEWNESS[2]} (their difference), each with a standard error of "
        f"{skewness_error(8):.2f}; the 30 subjects' real photos {golden_skewness():.2f}.",
        "",
        *table(asked=False, paired=False),
        *table(asked=False, paired=True),
        *make_skewed_section(found["skewed"]),
        "## What follows",
        "",
        "- Images of one subject are not independent: an interval that resamples them as if they "
        f"were contains the true value in {span('images')} %, not 95.",
        "- A percentile bootstrap over ten subjects contains it in "
        f"{span('percentile', n_subjects=10)} %, Student's t over them in "
        f"{span('student', n_subjects=10)} %. What prompts and images add by chance is in the "
        "spread of the subjects' means, and needs no resampling of its own.",
        "- A bootstrap-t over subjects does as well as Student's t, and better where subjects are "
        f"strongly skewed ({percent(strong['studentized'])} against {percent(strong['student'])} % "
        "with ten). It is wider and needs resampling, and with a handful of subjects a "
        "resample may hold one of them alone, so that its bounds run away. dreambench keeps "
        "Student's t, which keeps its nominal coverage where subjects are as skewed as the "
        "real photos are.",
        "- The sign-flip test is exact where differences are symmetric, as of a method trained "
        "twice; where they are strongly skewed it has a type I error of "
        f"{percent(skewed['alarms'])} % with ten subjects.",
        "- Where one subject in ten fails altogether, ten subjects may show no failure, and the "
        f"interval contains the true value in only {percent(min(failing))} %: no interval knows of "
        "what was not sampled. Read the table by subject.",
        "- The prompts are the protocol's own. Taken as a sample of other prompts, the interval "
        f"contains the true value in {percent(anew[0])} % (10 subjects) and {percent(anew[1])} % "
        "(30): it does not speak of those.",
        "",
        "## Where the numbers come from",
        "",
        *sources,
        "",
        "Spreads of mini (standard deviations of subject, prompt, prompt within subject, image), "
        f"printed by `{found['measured_by']}`:",
        "",
        *[f"- {name}: {', '.join(map(str, s.values()))}" for name, s in found["spreads"].items()],
        "",
    ]
    return "\n".join(lines)


def skewness_error(n: int) -> float:
    """Standard error of the sample skewness of n normal values."""
    return float(np.sqrt(6 * n * (n - 1) / ((n - 2) * (n + 1) * (n + 3))))


def golden_skewness() -> float:
    golden = pd.read_csv(shipped_path("dataset", "golden.csv"))
    return float(scipy.stats.skew(golden["dino_without_self"], bias=False))


def standard_error(n_simulations: int) -> float:
    """Of a share of 5 %, in points."""
    return 100 * float(np.sqrt(0.05 * 0.95 / n_simulations))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--simulations", type=int, default=10_000, help="for means")
    parser.add_argument("--paired-simulations", type=int, default=4_000, help="for differences")
    parser.add_argument("--skewed-simulations", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for coverage.md and coverage.json")
    parser.add_argument("--measure", type=Path, nargs=2, metavar="RUN")
    args = parser.parse_args()
    if args.measure:
        print_spreads(*args.measure)
        return
    results = []
    worlds = [
        (scenario, paired, asked)
        for paired, groups in ((False, make_run_scenarios()), (True, make_pair_scenarios()))
        for asked, group in zip((True, False), groups, strict=True)
        for scenario in group
    ]
    for index, (scenario, paired, asked) in enumerate(worlds):
        n = (args.paired_simulations if paired else args.simulations) // (1 if asked else 4)
        for n_subjects in N_SUBJECTS:
            seeds = [args.seed, index, n_subjects]
            shares = simulate(scenario, n, n_subjects, paired=paired, seeds=seeds)
            result = {
                "title": scenario.title,
                "source": scenario.source,
                "paired": paired,
                "asked": asked,
                "n_subjects": n_subjects,
                "n_simulations": n,
                **shares,
                "coverage_met": COVERAGE_ASKED[0] <= shares["student"] <= COVERAGE_ASKED[1],
            }
            if paired:
                result["alarms_met"] = ALARMS_ASKED[0] <= shares["alarms"] <= ALARMS_ASKED[1]
            results.append(result)
            shown = ", ".join(f"{name} {value:.3f}" for name, value in shares.items())
            print(f"{scenario.title}, {n_subjects} subjects: {shown}", flush=True)
    found = {
        "command": " ".join(["python", "benchmarks/coverage.py", *sys.argv[1:]]),
        "measured_by": "python benchmarks/coverage.py --measure runs/mini/dreambooth "
        "runs/mini/dreambooth-no-prior",
        "seconds": round(time.process_time(), 1),
        "seed": args.seed,
        "n_simulations": args.simulations,
        "n_paired_simulations": args.paired_simulations,
        "error": standard_error(args.simulations),
        "paired_error": standard_error(args.paired_simulations),
        "family_error": standard_error(args.paired_simulations // N_TESTS_OF_A_FAMILY),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "pandas": pd.__version__,
        "code": describe_code().model_dump(),
        "spreads": {name: asdict(spread) for name, spread in SPREADS.items()},
        "results": results,
        "skewed": simulate_skewed(args.skewed_simulations, args.seed),
    }
    page = make_page(found)
    print(page)
    if args.out:
        write_json(args.out / "coverage.json", found)
        write_bytes(args.out / "coverage.md", page.encode())


if __name__ == "__main__":
    main()
