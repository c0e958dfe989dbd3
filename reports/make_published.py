"""Makes published.csv and published-left-out.csv from a table of what papers print.

    python reports/make_published.py published_results.csv [FOLDER]

That table was read from papers by hand and says what a number is in a reader's words; the rules
here turn those words into columns. A row that no rule fits keeps "unknown". Every row comes out in
one of the two files, and `dreambench.leaderboard.published` checks what was written.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from dreambench.leaderboard.published import COLUMNS, check_published
from dreambench.storage.csv_files import read_csv, write_csv

INPUT = (
    "method", "base_model", "tuning", "dino", "clip_i", "clip_t", "other", "variant", "paper",
    "arxiv", "table", "source", "confidence",
)  # fmt: skip
LEFT_OUT = ("line", "reason", *INPUT)
METRICS = {"dino": "DINO", "clip_i": "CLIP-I", "clip_t": "CLIP-T"}

# What the reader marked as wrong: (where in the row it stands, reason).
IMPLAUSIBLE = (
    (r"TRANSCRIPTION ERROR", "marked as copied wrongly from another paper's table"),
    (r"\[sic:", "marked as another method's numbers"),
    (r"DO NOT USE", "marked as implausible on this scale"),
)
# The variant of these rows says "as above" of the row before.
SAME = re.compile(r"as above|same$|same protocol")

# The first that is found in method, variant and table says what the images show.
BENCHMARKS = (
    (r"OpenImages", "openimages"),
    (r"MS-Bench", "ms-bench"),
    (r"MultiBench", "multibench"),
    (r"USO-Bench", "uso-bench"),
    (r"CustomConcept101.*(MULTI concept|multi-concept)", "customconcept101-several-subjects"),
    (r"CustomConcept101", "customconcept101"),
    (r"DreamBench\+\+ multi", "dreambench-plus-several-subjects"),
    (r"DreamBench\+\+", "dreambench-plus"),
    (r"FACES", "celeba-hq-faces"),
    (r"VIDEO", "dreambench-video"),
    (r"own test set", "own-test-set"),
    (r"ONE image for tuning", "own-test-set"),
    (r"TWO-subject|DreamBench multi|subject pairs", "dreambench-several-subjects"),
    (r"15 subjects|subset", "dreambench-subset"),
)
# The first that is found in the row's text says under which convention, against which photos. Only
# what a row or shared/facts/scorers.md says of its scoring counts: that a method was shown one
# photo does not say against which its images were scored.
CONVENTIONS = (
    (r"hqhQAQ/PatchDPO.*as quoted", "unknown", "unknown"),
    (r"hqhQAQ/PatchDPO.*SAME method", "patchdpo-single", "one"),
    (r"hqhQAQ/PatchDPO.*Kosmos-G list", "kosmos-g", "one"),
    (r"hqhQAQ/PatchDPO", "patchdpo", "all"),
    (r"mean over all real images|2208\.12242", "paper", "all"),
    (r"SINGLE reference", "kosmos-g", "one"),
    (r"2409\.11340v1", "kosmos-g", "one"),
    (r"follows OmniGen-v1 protocol", "unknown", "one"),
    (r"REAL-IMAGE ORACLE \.703|OFT protocol", "oft", "all"),
    (r"ALL references", "unknown", "all"),
    (r"vs the single input reference|against the INPUT reference|single-reference DINO", "unknown",
     "one"),
    (r"ONE image for tuning and scoring", "unknown", "one"),
    (r"code defaults CLIP ViT-B/32, DINO v1 ViT-S/8", "dreambench-plus", "one"),
    (r"CustomConcept101", "customconcept101", "all"),
)  # fmt: skip
N_IMAGES = (
    (r"= (\d{4})\b", None),
    (r"\b(\d{3,4}) (?:images|samples)\b(?! x)", None),
    (r"6 images/prompt|6 img/prompt", 4500),
    (r"30 x 25 x 4|DreamBench 4 img/prompt", 3000),
    (r"1 image a prompt", 750),
)
TRACKS = (
    (r"tuning-free|training-free", "tuning-free"),
    (r"fine-tune|per-subject|hybrid", "tuned"),
    (r"none", "no photos"),
)
# Tracks that the rows of a paper do not name, from what the paper is about.
TRACK_OF_METHOD = {
    "PatchDPO": "tuning-free", "IP-Adapter-Plus": "tuning-free", "XVerse": "tuning-free",
    "LoRA": "tuned", "T-LoRA": "tuned", "OFT": "tuned", "SVDiff": "tuned",
    "DreamBooth": "tuned", "Custom Diffusion": "tuned",
}  # fmt: skip
BASE_MODELS = {
    "SD": "Stable Diffusion", "SD3": "Stable Diffusion 3", "FLUX": "FLUX.1", "own": "", "-": "",
    "SDXL v1.0": "SDXL", "SDXL (ViT-H)": "SDXL", "Kandinsky v2.2": "Kandinsky 2.2",
    "SD v1.5 (retrained CLIP text enc + adapter)": "Stable Diffusion 1.5",
    "SDXL-based decoder, 37B": "SDXL", "SDXL + IP-Adapter-Plus": "SDXL", "Imagen-type": "Imagen",
    "OmniGen-v1": "OmniGen", "OmniGen-v1 3.8B": "OmniGen", "own 2.8B": "own, 2.8B",
    "own 5B": "own, 5B", "FLUX.1-dev?": "FLUX.1-dev", "FLUX?": "FLUX.1", "video model": "",
    "Lumina-mGPT": "Lumina-mGPT 7B",
}  # fmt: skip
# Names that do not follow "Method (variant)".
METHODS = {
    "DreamBooth w/ prior-preservation": ("DreamBooth", "with prior preservation"),
    "DreamBooth w/o prior-preservation": ("DreamBooth", "without prior preservation"),
    "Stable Diffusion (no personalization, class word only) - FLOOR":
        ("Stable Diffusion", "class noun alone"),
    "Subject-Diffusion w/o box coordinates": ("Subject-Diffusion", "without box coordinates"),
    "Subject-Diffusion (OpenImages test set)": ("Subject-Diffusion", ""),
    "UNO, no position offset (ablation)": ("UNO", "without position offset"),
    "Diptych Prompting WITHOUT removing reference background":
        ("Diptych Prompting", "background of the reference kept"),
    "Emu2-Gen": ("Emu2", ""),
    "Emu2-Gen (single image)": ("Emu2", ""),
    "FLUX.1 IP-Adapter (v2)": ("IP-Adapter", "v2"),
    "ConsistCompose (BAGEL-7B)": ("ConsistCompose", ""),
    "PersonalAR LoRA r=64 N=1": ("PersonalAR", "LoRA r=64 N=1"),
    "PersonalAR (Lumina-mGPT full fine-tune)": ("PersonalAR", "full fine-tuning"),
    "CoAR / DCoAR": ("CoAR", ""),
    "Proxy-Tuning (Lumina-mGPT, SD3.5 teacher)": ("Proxy-Tuning", "SD3.5 teacher"),
    "Proxy-Tuning Lumina-mGPT (SDXL teacher)": ("Proxy-Tuning", "SDXL teacher"),
    "SDXL teacher (LoRA DreamBooth)": ("DreamBooth", "LoRA"),
    "DreamBooth (Lumina-mGPT)": ("DreamBooth", ""),
    "LoRA DreamBooth 512px": ("DreamBooth", "LoRA, 512 px"),
    "DreamBooth LoRA": ("DreamBooth", "LoRA"),
    "MUSIC* (test-time scaling, CLIP-selected candidates)":
        ("MUSIC", "candidates chosen by CLIP"),
    "EchoGen-2B": ("EchoGen", "2B"),
    "EchoGen-0.1B": ("EchoGen", "0.1B"),
    "HollowedNet 50%": ("HollowedNet", "50 %"),
    "OFT n=4": ("OFT", "n=4"),
    "DreamBooth on BK-SDM-Base (paper value quoted in issue)": ("DreamBooth", ""),
    "DreamBooth on BK-SDM-Base (third-party reproduction, same scripts)":
        ("DreamBooth", "made again by others"),
    "zero-shot customised T2V model (authors' own)": ("own text-to-video model", ""),
    "same, 80 fine-tune steps": ("own text-to-video model", "80 steps of tuning"),
    "IP-Adapter-Plus ViT-H": ("IP-Adapter-Plus", "ViT-H"),
    "IP-Adapter ViT-G": ("IP-Adapter", "ViT-G"),
    "MIP-Adapter (sdxl)": ("MIP-Adapter", "sdxl"),
    "LoRA-64": ("LoRA", "rank 64"),
    "T-LoRA-64": ("T-LoRA", "rank 64"),
    "OFT-32": ("OFT", "32"),
}  # fmt: skip
NO_VARIANT = ("zero-shot", "fine-tuned", "single image", "first preprint")
# Rows of the second reading name a source alone; the identifiers stand in those repositories.
PAPERS = (
    (r"hqhQAQ/PatchDPO", "PatchDPO", "2412.03177"),
    (r"hqhQAQ/MIP-Adapter", "MIP-Adapter", "2409.17920"),
    (r"/multicrafter_", "MultiCrafter", ""),
    (r"/t-lora_", "T-LoRA", ""),
    (r"/care-edit_", "CARE-Edit", "2603.08589"),
)
CONFIDENCE = {"single source, added in the second reading": "single source"}


def find(rules: tuple, text: str, default: object) -> object:
    """Return what the first rule whose pattern is in the text gives."""
    for pattern, *found in rules:
        match = re.search(pattern, text)
        if match:
            return found[0] if len(found) == 1 else tuple(found)
    return default


def name_method(text: str) -> tuple[str, str]:
    """Return a method's name and its variant."""
    if text in METHODS:
        return METHODS[text]
    match = re.fullmatch(r"(.+?) \((.+)\)", text)
    if match:
        return match[1], "" if match[2] in NO_VARIANT else match[2]
    return text, ""


def name_base_model(text: str) -> str:
    """Return a base model's name."""
    return BASE_MODELS.get(text, re.sub(r"^SD v?(?=\d)", "Stable Diffusion ", text))


def count_images(text: str) -> str:
    """Return how many images were scored, if the text says so."""
    for pattern, number in N_IMAGES:
        match = re.search(pattern, text)
        if match:
            return str(number or match[1])
    return ""


def normalise(row: dict[str, str], variant: str, tracks: dict[str, str]) -> dict[str, str]:
    """Return a row of published.csv."""
    method, kind = name_method(row["method"])
    steps = re.search(r"\d+ DDPM", variant)
    text = " | ".join((row["method"], row["arxiv"], row["table"], row["source"], variant))
    paper, arxiv = row["paper"], row["arxiv"]
    if not paper:
        paper, arxiv = find(PAPERS, row["source"], ("", ""))
    found = re.match(r"\d{4}\.\d{5}", arxiv)
    convention, references = find(CONVENTIONS, text, ("unknown", "unknown"))
    year = f"20{arxiv[:2]}" if found else (re.search(r"\b(20\d\d)\b", arxiv) or [""])[0]
    year = year or (re.search(r"(?:CVPR|AAAI|ICLR|ICCV)(20\d\d)", row["source"]) or ["", ""])[1]
    notes = [variant, row["other"]]
    if "recalled" in arxiv:
        notes.append("arXiv id from memory")
    if row["base_model"].endswith("?"):
        notes.append("base model uncertain")
    table = row["table"] or (re.search(r"Table \d+", row["source"]) or [""])[0]
    return {
        "method": method,
        "variant": ", ".join(filter(None, (kind, f"{steps[0]} steps" if steps else ""))),
        "base_model": name_base_model(row["base_model"]),
        "track": find(TRACKS, row["tuning"], tracks.get(method, "unknown")),
        "benchmark": find(BENCHMARKS, f"{row['method']} {variant} {row['table']}", "dreambench"),
        "references": references,
        "convention": convention,
        "n_images": count_images(variant),
        "dino": row["dino"],
        "clip-i": row["clip_i"],
        "clip-t": row["clip_t"],
        "paper": paper,
        "arxiv": found[0] if found else "",
        "year": year,
        "table": table,
        "confidence": CONFIDENCE.get(row["confidence"], row["confidence"]),
        "source": row["source"],
        "quoted_by": "",
        "note": "; ".join(filter(None, notes)),
    }  # fmt: skip


def find_fault(row: dict[str, str], text: str) -> str:
    """Return why a row is left out; empty if it is kept."""
    missing = [title for metric, title in METRICS.items() if not row[metric]]
    if missing:
        return f"no {' and no '.join(missing)}"
    return find(IMPLAUSIBLE, text, "")


def learn_tracks(rows: list) -> dict[str, str]:
    """Return the track of each method that has one track in all rows that name it."""
    seen: dict[str, set[str]] = {}
    for row in rows:
        track = find(TRACKS, row["tuning"], "")
        if track:
            seen.setdefault(name_method(row["method"])[0], set()).add(track)
    return {name: tracks.pop() for name, tracks in seen.items() if len(tracks) == 1}


def is_own(row: dict[str, str]) -> bool:
    """Return whether a row stands in the method's own paper."""
    return row["paper"].startswith(row["method"])


def merge_quotes(rows: list[dict[str, str]]) -> dict[int, int]:
    """Give each set of equal numbers of one method to one row; return by whom others are covered.

    The row of the method's own paper stays, else the first. Numbers are equal where three digits
    are; papers round what they quote.
    """
    groups: dict[tuple, list[int]] = {}
    for index, row in enumerate(rows):
        numbers = (round(float(row[name]) + 1e-9, 3) for name in ("dino", "clip-i", "clip-t"))
        groups.setdefault((row["method"], row["benchmark"], *numbers), []).append(index)
    covered = {}
    for indices in groups.values():
        kept = next((i for i in indices if is_own(rows[i])), indices[0])
        others = [i for i in indices if i != kept]
        covered |= dict.fromkeys(others, kept)
        papers = dict.fromkeys(rows[i]["paper"] for i in others)
        papers.pop(rows[kept]["paper"], None)
        rows[kept]["quoted_by"] = "; ".join(papers)
        for i in others:
            # A quoting paper may say what the first does not.
            for name in ("convention", "references", "track"):
                if rows[kept][name] == "unknown":
                    rows[kept][name] = rows[i][name]
            rows[kept]["base_model"] = rows[kept]["base_model"] or rows[i]["base_model"]
    return covered


def main(path: Path, folder: Path) -> None:
    """Read the table and write the two files."""
    given = read_csv(path, INPUT)
    tracks = TRACK_OF_METHOD | learn_tracks(given)
    rows, lines, left_out, variant = [], [], [], ""
    for row in given:
        above, variant = variant, row["variant"]
        if SAME.match(variant):
            variant = f"{variant}: {above}" if above not in variant else variant
        reason = find_fault(row, " ".join(row.values()))
        if reason:
            left_out.append({"line": str(row.line), "reason": reason, **row})
        else:
            rows.append(normalise(row, variant, tracks))
            lines.append(row)
    covered = merge_quotes(rows)
    for index, kept in covered.items():
        paper = f"{rows[kept]['paper']}, {rows[kept]['table']}"
        reason = f"the numbers of line {lines[kept].line} again ({paper})"
        left_out.append({"line": str(lines[index].line), "reason": reason, **lines[index]})
    write_csv(
        folder / "published.csv", COLUMNS, [r for i, r in enumerate(rows) if i not in covered]
    )
    left_out.sort(key=lambda row: int(row["line"]))
    write_csv(folder / "published-left-out.csv", LEFT_OUT, left_out)
    n_kept = len(check_published(folder / "published.csv"))
    print(f"{len(given)} rows: {n_kept} in published.csv, {len(left_out)} left out")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent)
