"""Calls of a method's code: stops, exits, time limits, and a process that is as it was."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import PIL.Image
import PIL.ImageFile
import pytest
import torch
from torch import nn

from dreambench.errors import format_traceback, read_message
from dreambench.methods.calls import Calls, ExitError, TimeLimitError


def run(function, *, limit=None):
    return Calls(limit_seconds=limit).run(function, on_hang=lambda error: None)


def fails_with(error):
    def function():
        raise error

    return function


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_would_end_the_program_becomes_an_error(kind):
    with pytest.raises(ExitError, match=kind.__name__):
        run(fails_with(kind("now")))


def test_other_errors_stay_what_they_are():
    with pytest.raises(StopIteration):
        run(fails_with(StopIteration()))
    assert run(lambda: 3) == 3


@pytest.mark.parametrize("is_swallowed", [False, True])
def test_a_users_stop_is_one_whatever_the_code_makes_of_it(is_swallowed):
    def function():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            if not is_swallowed:
                raise ValueError("wrapped") from error

    with pytest.raises(KeyboardInterrupt):
        run(function)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def swallow_once():
    try:
        time.sleep(20)
    except BaseException:
        time.sleep(20)


def swallow_exceptions():
    while True:
        with contextlib.suppress(Exception):
            time.sleep(20)


def compute():
    while True:
        torch.zeros(8) + 1


@pytest.mark.parametrize("function", [lambda: time.sleep(20), swallow_exceptions, compute,
                                      swallow_once])  # fmt: skip
def test_a_call_that_takes_too_long_is_interrupted(function):
    started = time.monotonic()
    with pytest.raises(TimeLimitError, match=r"0\.2 seconds"):
        run(function, limit=0.2)
    assert time.monotonic() - started < 5
    time.sleep(0.3)  # Nothing rings any more.


def test_a_call_in_another_thread_fails_when_it_is_done():
    found = []

    def call():
        try:
            run(lambda: time.sleep(0.2), limit=0.1)
        except TimeLimitError as error:
            found.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert len(found) == 1


HANGS = textwrap.dedent("""
    import signal, sys, threading, time
    from dreambench.methods import calls
    calls.HANG_SECONDS = 0.5
    def hang():
        # As native code that no signal reaches.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()
    def say(error):
        print(error, error.__notes__, flush=True)
    calls.Calls(limit_seconds=0.2).run(hang, on_hang=say)
    print("came back")
""")


def test_a_process_that_hangs_is_recorded_and_ended():
    done = subprocess.run(
        [sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "took longer than 0.2 seconds" in done.stdout
    assert "in hang" in done.stdout
    assert "came back" not in done.stdout


class Unprintable(Exception):
    def __str__(self):
        raise SystemExit

    __repr__ = __str__


def test_an_error_that_cannot_be_printed_has_a_text():
    assert read_message(Unprintable()) == "(its message cannot be printed)"
    assert "Unprintable" in format_traceback(Unprintable())
    assert read_message(ValueError("caf\udce9")) == r"caf\xe9"
    format_traceback(ValueError("caf\udce9")).encode()


def leave_everything(folder):
    os.chdir(folder)
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.set_float32_matmul_precision("medium")
    torch.backends.mkldnn.enabled = False
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    torch.backends.cudnn.benchmark = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_flush_denormal(True)
    torch.set_default_dtype(torch.bfloat16)
    torch.set_default_device("meta")
    torch.set_grad_enabled(False)
    torch.set_autocast_enabled("cpu", True)
    torch.backends.cuda.enable_math_sdp(False)
    nn.modules.module.register_module_forward_hook(lambda module, given, found: found * 0)
    nn.functional.scaled_dot_product_attention = lambda query, *_, **__: query
    nn.Linear.forward = lambda self, x: x
    nn.Module.__call__ = lambda self, x: x
    PIL.ImageFile.LOAD_TRUNCATED_IMAGES = True
    PIL.Image.fromarray = None
    sys.stdout = None


def look():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4)
    found = nn.Linear(4, 4)(nn.functional.scaled_dot_product_attention(x, x, x))
    return [
        Path.cwd(), torch.get_num_threads(), torch.get_float32_matmul_precision(),
        torch.backends.mkldnn.enabled, torch.backends.mkldnn.matmul.fp32_precision,
        torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled(),
        float(torch.tensor(1e-320, dtype=torch.float64) * 1), found.dtype, found.device,
        found.requires_grad, torch.is_autocast_enabled("cpu"),
        torch.backends.cuda.math_sdp_enabled(), found.tolist(),
        PIL.ImageFile.LOAD_TRUNCATED_IMAGES, PIL.Image.fromarray, sys.stdout,
    ]  # fmt: skip


def enter_inference(folder):
    enter_inference.kept = torch.inference_mode()
    enter_inference.kept.__enter__()


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("leave", [leave_everything, enter_inference])
def test_what_a_call_leaves_behind_is_put_back(tmp_path, leave, fails):
    before = look()

    def function():
        leave(tmp_path)
        if fails:
            raise ValueError("after all that")

    try:
        run(function)
    except ValueError:
        assert fails
    assert look() == before
