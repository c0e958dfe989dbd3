"""What is shown while work runs: how far it is, how long it still takes, and no noise."""

import subprocess
import sys

import pytest

from dreambench.cli.display import LIBRARIES, Display
from dreambench.progress import Pace, format_seconds


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_slow_steps_have_a_time_left_from_the_first_one_on():
    clock = Clock()
    pace = Pace(0, clock=clock)
    clock.now += 50
    assert pace.seconds_left(10) is None
    clock.now += 550  # The first step took ten minutes.
    pace.update(1)
    assert pace.seconds_left(10) == pytest.approx(5400)
    clock.now += 100
    assert pace.seconds_left(10) == pytest.approx(5300)
    clock.now += 2000  # Longer than a step: what is left after it stays.
    assert pace.seconds_left(10) == pytest.approx(4800)


def test_steps_that_were_done_before_do_not_make_it_fast():
    clock = Clock()
    pace = Pace(90, clock=clock)
    assert pace.seconds_left(100) is None
    clock.now += 60
    pace.update(91)
    assert pace.seconds_left(100) == pytest.approx(540)
    pace.update(100)
    assert pace.seconds_left(100) == 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-:--:--"), (0, "0:00:00"), (59.6, "0:01:00"), (5025, "1:23:45")]
)
def test_a_time_is_read_as_hours_minutes_seconds(seconds, text):
    assert format_seconds(seconds) == text


def test_a_log_hears_of_slow_work_once_a_minute(capsys, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("dreambench.cli.display.time.monotonic", clock)
    monkeypatch.setattr("dreambench.progress.Pace.__init__.__kwdefaults__", {"clock": clock})
    display = Display(quiet=False)
    for done in range(4):
        display("subjects", done, 4)
        clock.now += 40
    display("subjects", 4, 4)
    assert capsys.readouterr().err.splitlines() == [
        "subjects: 2 of 4, 0:01:20 left", "subjects: 4 of 4",
    ]  # fmt: skip


def test_bars_show_the_time_left_of_slow_steps(monkeypatch):
    clock = Clock()
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("dreambench.progress.Pace.__init__.__kwdefaults__", {"clock": clock})
    display = Display(quiet=False)
    display("[x] subjects", 0, 3)
    clock.now += 1200
    display("[x] subjects", 1, 3)
    with display.bars.console.capture() as caught:
        display.bars.console.print(display.bars.get_renderable())
    assert "0:40:00" in caught.get()
    assert "[x] subjects" in caught.get()


NOISE = """
import logging, sys, warnings
from dreambench.cli.display import set_up_logging
set_up_logging(quiet=False, verbose={verbose})
import diffusers
from diffusers.utils import logging as of_diffusers
from transformers.utils import logging as of_transformers
of_diffusers.get_logger("diffusers.models").warning("NOISE of diffusers")
of_transformers.get_logger("transformers.models").warning("NOISE of transformers")
logging.getLogger("bitsandbytes.backends.cpu.ops").warning("NOISE of bitsandbytes")
warnings.warn_explicit("NOISE of timm", FutureWarning, "x.py", 1, module="timm.models.layers")
of_diffusers.get_logger("diffusers.models").error("a real error")
warnings.warn_explicit("your own", UserWarning, "mine.py", 1, module="my_method")
logging.getLogger("dreambench.x").warning("our notice")
"""


@pytest.mark.parametrize("verbose", [False, True])
def test_libraries_are_not_heard_unless_asked_for(verbose):
    code = NOISE.format(verbose=verbose)
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == ""
    for text in ("a real error", "your own", "our notice"):
        assert text in found.stderr
    assert ("NOISE" in found.stderr) == verbose
    assert set(LIBRARIES) >= {"diffusers", "transformers", "bitsandbytes"}
