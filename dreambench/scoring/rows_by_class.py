"""Rows by class noun, which a segmenter may be asked for: their names, and what makes them."""

from __future__ import annotations

from collections.abc import Sequence

from dreambench.encoders.parts import MaskExtractor, PartsExtractor
from dreambench.encoders.regions import RegionsExtractor
from dreambench.encoders.segmentation import Segmenter
from dreambench.scoring.tools import Tools


def name_parts(class_name: str) -> str:
    """Return the name of rows of the subject and of its surroundings."""
    return f"parts:{class_name}"


def name_masks(class_name: str) -> str:
    """Return the name of rows of masks."""
    return f"masks:{class_name}"


def name_regions(nouns: Sequence[str]) -> str:
    """Return the name of rows of the regions of a pair's images."""
    return f"regions:{'|'.join(nouns)}"


def is_by_class(kind: str) -> bool:
    """Return whether rows have such a name."""
    return ":" in kind


def make_masks_extractor(tools: Tools, class_name: str) -> MaskExtractor:
    """Return what makes the rows of masks."""
    return MaskExtractor(_find_segmenter(tools), class_name=class_name)


def make_parts_extractor(tools: Tools, class_name: str) -> PartsExtractor:
    """Return what makes the rows of parts."""
    dino, clip = tools.encoders["dino"], tools.encoders["clip"]
    return PartsExtractor(dino, clip, _find_segmenter(tools), class_name=class_name)


def make_regions_extractor(tools: Tools, nouns: Sequence[str]) -> RegionsExtractor:
    """Return what makes the rows of regions."""
    dino, clip = tools.encoders["dino"], tools.encoders["clip"]
    return RegionsExtractor(dino, clip, _find_segmenter(tools), nouns=nouns)


def _find_segmenter(tools: Tools) -> Segmenter:
    """Return the segmenter of tools that have one."""
    if tools.segmenter is None:
        raise ValueError("parts need a segmenter")
    return tools.segmenter
