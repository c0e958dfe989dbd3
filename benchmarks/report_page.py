"""How fast a report's page is at the size of the paper's protocol: 3,000 images of each method.

    python benchmarks/report_page.py [--out reports/benchmarks] [--methods 5]

Makes the images (192 px, so that this takes minutes and not hours), writes the page with its
thumbnails as `dreambench report` does, again with all thumbnails there, and opens it in Chromium
from the disk: time until the numbers and the first images are there, time to sort all images, and
the memory of the page's process, also after the reader scrolled through 2,400 images. Chromium is
the system's, or the one that DREAMBENCH_CHROMIUM names. Nothing is asserted: a figure depends on
its machine.
"""

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import psutil
from playwright.sync_api import Browser, Page, expect, sync_playwright
from report_pages import make_run, make_subjects

from dreambench.report.html.pages import render_page
from dreambench.report.html.tables import make_sections
from dreambench.report.pages import make_run_document
from dreambench.report.run_page import write_run_page
from dreambench.storage.files import make_dir, write_bytes, write_json
from dreambench.storage.sums import write_sums

N_SUBJECTS, N_PROMPTS, N_IMAGES, SIZE_PX = 30, 25, 4, 192
N_ROUNDS = 3
N_SCROLLED = 2400
CHROMIUM = os.environ.get("DREAMBENCH_CHROMIUM") or shutil.which("chromium") or "chromium"
PROTOCOL = """
title = "as many images as the paper's protocol has"
source = "benchmarks/report_page.py"
version = 1
dataset = "mini"
base_model = "mini"
n_images_per_prompt = {n_images}
metrics = ["dino", "clip-i", "clip-t"]

[sampler]
scheduler = "ddim"
n_steps = 5
guidance_scale = 3.0
size_px = 64

[prior]
n_images = 1

[encoders]
dino = "mini-vit"
clip = "mini-clip"
perceptual = "mini-vit-patches"
segmenter = "mini-segmenter"
"""
PROMPT = """
[[prompts]]
id = "prompt-{n}"
family = "{family}"
text = "a {{subject}} in front of the landmark number {n} in the late afternoon"
"""
FAMILIES = ("recontextualization", "accessorization", "property", "art", "viewpoint")
PAGE = """# The report's page: time and memory

Made by `{command}`, which also says how it is measured ([report-page.json](report-page.json)):
{n_methods} methods with {n_images:,} images each, {cpu_count} cores ({machine}), Python {python},
{browser}. Medians of {n_rounds} rounds.

| | |
|:--|--:|
| `index.html` | {page_mb:.1f} MB |
| thumbnails ({n_thumbnails:,} files) | {thumbnails_mb:.0f} MB |
| write the page, no thumbnail there yet | {first_seconds:.1f} s ({first_ms:.1f} ms an image) |
| write it again, all thumbnails there | {again_seconds:.1f} s |
| open: the numbers are there | {numbers_seconds:.2f} s |
| open: the first images are there | {images_seconds:.2f} s |
| sort all {n_all:,} images by a metric | {sort_seconds:.2f} s |
| show them side by side | {beside_seconds:.2f} s |
| open one image | {open_seconds:.2f} s |
| memory of the page's process, with the first images | {memory_mb:.0f} MB |
| after {n_scrolled:,} images went by | {scrolled_memory_mb:.0f} MB |
| an empty page of the same look, for comparison | {empty_memory_mb:.0f} MB |
"""


def read_memory(pid: int) -> float:
    """Megabytes that the largest page process below a browser's process has for itself."""
    pages = [
        child.memory_full_info().uss
        for child in psutil.Process(pid).children(recursive=True)
        if "--type=renderer" in child.cmdline()
    ]
    return max(pages) / 1e6


def find_browser() -> int:
    """The process of the browser that this process started."""
    found = [
        child.pid
        for child in psutil.Process().children(recursive=True)
        if "--type=" not in " ".join(child.cmdline()) and "chromium" in " ".join(child.cmdline())
    ]
    return found[-1]


def open_page(browser: Browser, address: str) -> Page:
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.goto(address)
    return page


def measure_round(browser: Browser, path: Path, empty: Path) -> dict[str, float]:
    """Seconds and megabytes of one round."""
    found: dict[str, float] = {}
    page = open_page(browser, empty.as_uri())
    found["empty_memory_mb"] = read_memory(find_browser())
    page.context.close()

    started = time.monotonic()
    page = open_page(browser, path.as_uri())
    expect(page.locator("#numbers table").first).to_be_visible()
    found["numbers_seconds"] = time.monotonic() - started
    page.context.close()

    started = time.monotonic()
    page = open_page(browser, f"{path.as_uri()}#images")
    expect(page.locator(".shot img").nth(5)).to_have_js_property("complete", True)
    found["images_seconds"] = time.monotonic() - started
    found["memory_mb"] = read_memory(find_browser())

    def choose(name: str, label: str) -> float:
        began = time.monotonic()
        page.locator(f"select[name={name}]").select_option(label=label)
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        return time.monotonic() - began

    found["sort_seconds"] = choose("sort", "DINO ↑")
    found["beside_seconds"] = choose("layout", "side by side")
    choose("layout", "one by one")
    began = time.monotonic()
    page.locator(".shot").first.click()
    expect(page.locator(".large")).to_have_js_property("complete", True)
    found["open_seconds"] = time.monotonic() - began
    page.keyboard.press("Escape")
    page.mouse.move(640, 600)
    while (n_there := page.locator("#shots > li").count()) < N_SCROLLED:
        page.mouse.wheel(0, 3000)
        page.wait_for_timeout(30)
        assert n_there <= N_SCROLLED + 120
    page.wait_for_timeout(500)
    found["scrolled_memory_mb"] = read_memory(find_browser())
    page.context.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, help="folder of the page and its figures")
    parser.add_argument("--methods", type=int, default=5, help="how many methods")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        prompts = [PROMPT.format(n=n, family=FAMILIES[n % len(FAMILIES)]) for n in range(N_PROMPTS)]
        protocol = root / "large.toml"
        protocol.write_text(PROTOCOL.format(n_images=N_IMAGES) + "".join(prompts))
        nouns = {f"subject{n:02}": ("dog", "cup", "backpack")[n % 3] for n in range(N_SUBJECTS)}
        subjects = make_subjects(root / "photos", nouns, n_photos=5)
        shown = [
            make_run(
                root / "runs" / f"method-{n}", protocol, subjects, quality=0.2 + n / 10,
                size_px=SIZE_PX,
            )
            for n in range(args.methods)
        ]  # fmt: skip
        document = make_run_document([run for run, _ in shown])
        seconds = []
        for _ in range(2):
            started = time.monotonic()
            path, thumbnails = write_run_page(document, shown, shown[0][1].report_dir)
            write_sums(path.parent, [path, *thumbnails])
            seconds.append(time.monotonic() - started)
        title, sections = make_sections(document)
        empty = path.with_name("empty.html")
        values = {"title": title, "sections": sections[:1]}
        empty.write_text(render_page("document.html", values))
        n_all = sum(len(images.plan.images) for _, images in shown)
        with sync_playwright() as playwright:
            rounds = []
            for _ in range(N_ROUNDS):
                browser = playwright.chromium.launch(
                    executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else []
                )
                version = f"Chromium {browser.version}"
                rounds.append(measure_round(browser, path, empty))
                browser.close()
        found = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        found = {key: round(value, 3) for key, value in found.items()} | {
            "command": " ".join(["python", "benchmarks/report_page.py", *sys.argv[1:]]),
            "n_methods": args.methods, "n_images": n_all // args.methods, "n_all": n_all,
            "n_scrolled": N_SCROLLED, "n_rounds": N_ROUNDS, "rounds": rounds,
            "page_mb": path.stat().st_size / 1e6, "n_thumbnails": len(thumbnails),
            "thumbnails_mb": sum(one.stat().st_size for one in thumbnails) / 1e6,
            "first_seconds": seconds[0], "again_seconds": seconds[1],
            "first_ms": 1000 * seconds[0] / len(thumbnails),
            "cpu_count": os.cpu_count(), "machine": platform.machine(),
            "python": platform.python_version(), "browser": version,
        }  # fmt: skip
    page = PAGE.format_map(found)
    print(page)
    if args.out:
        make_dir(args.out)
        write_json(args.out / "report-page.json", found)
        write_bytes(args.out / "report-page.md", page.encode())


if __name__ == "__main__":
    main()
