r"""Puts trained models where the package looks for them.

    python -m dreambench.mini.training.install --vit DIR --clip DIR --clip-2 DIR \
        --base DIR --segmenter DIR --ip-adapter DIR --vqgan DIR --flow DIR --pixel DIR

Those that are not named stay as they are. Refuses to ship more than the package may carry.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from dreambench.storage.shipped import PACKAGE_DIR

MAX_BYTES = 80_000_000
NAMES = ("vit", "clip", "clip-2", "base", "segmenter", "ip-adapter", "vqgan", "flow", "pixel")
WEIGHTS_DIR = PACKAGE_DIR / "mini" / "weights"


def forget_place(config: Path) -> None:
    """Drops the folder of the training machine that diffusers writes into a configuration."""
    content = json.loads(config.read_text())
    if content.pop("_name_or_path", None) is not None:
        config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_compactly(path: Path) -> None:
    """The same JSON without spaces."""
    content = json.loads(path.read_text(encoding="utf-8"))
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def count_bytes(folder: Path) -> int:
    """Of all files in a folder, which may not be there."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in NAMES:
        parser.add_argument(f"--{name}", type=Path)
    given = vars(parser.parse_args()).items()
    sources = {name.replace("_", "-"): value for name, value in given if value is not None}
    with tempfile.TemporaryDirectory() as folder:
        for name, source in sources.items():
            shutil.copytree(source, Path(folder, name))
        for config in Path(folder).rglob("config.json"):
            forget_place(config)
        # Half of it is indentation. CLIP's own stays as it is: its bytes are in the encoder's name.
        for tokenizer in Path(folder).glob("*/tokenizer/tokenizer.json"):
            write_compactly(tokenizer)
        others = [WEIGHTS_DIR / name for name in NAMES if name not in sources]
        n_bytes = sum(map(count_bytes, [Path(folder), *others]))
        if n_bytes > MAX_BYTES:
            raise SystemExit(f"{n_bytes} bytes of weights and tokenizers, {MAX_BYTES} at most")
        for name in sources:
            shutil.rmtree(WEIGHTS_DIR / name, ignore_errors=True)
            shutil.copytree(Path(folder, name), WEIGHTS_DIR / name)
    print(f"installed {', '.join(sources) or 'nothing'}; {n_bytes / 1e6:.1f} MB in all")


if __name__ == "__main__":
    main()
