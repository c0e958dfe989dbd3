"""Mini's encoders know its rendered world and nothing else: who scores other photos is told."""

import logging

import pytest

from dreambench.config.protocol import load_protocol
from dreambench.scoring.tools import prepare_encoders


@pytest.fixture
def said():
    """What is logged, whether or not a command has taken over the package's log."""
    found = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    logger = logging.getLogger("dreambench.scoring.tools")
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


def test_who_scores_other_photos_is_told_what_minis_encoders_know(said):
    prepare_encoders(load_protocol("mini").model_copy(update={"dataset": "own"}))
    (line,) = said
    for word in ("mini-vit", "mini-clip", "mini's rendered world", "list encoders"):
        assert word in line


def test_mini_itself_is_scored_without_a_word(said):
    prepare_encoders(load_protocol("mini"))
    assert said == []


def test_each_encoder_is_named_once_where_it_was_chosen(said):
    changed = {"dataset": "dreambooth", "metrics": ("dino",)}
    prepare_encoders(load_protocol("mini").model_copy(update=changed))
    (line,) = said
    assert line.count("mini-vit") == 1
    assert "mini-clip" not in line
