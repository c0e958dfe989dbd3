"""A method from outside for tests: its code, and how it is run."""

from conftest import invoke

# Its pictures are one colour each, so that a test takes a second; FAULT picks what goes wrong.
OWN = '''
import io, os, signal, subprocess, time
from pathlib import Path
from PIL import Image
from dreambench.errors import UserError
from dreambench.methods import Method

FAULT, _, WHERE = os.environ.get("FAULT", "").partition(" ")


def fault(stage, subject):
    fault, _, where = os.environ.get("FAULT", "").partition(" ")
    if fault != stage or subject not in ("", "dog"):
        return ""
    if where == "!ctrl-c":
        signal.raise_signal(signal.SIGINT)
    if where == "!surrogate":
        raise ValueError("no file caf" + chr(0xDCE9) + ".png")
    if where == "!slow":
        time.sleep(30)
    if where.startswith("!"):
        raise {"!stop": KeyboardInterrupt, "!exit": SystemExit, "!user": UserError,
               "!generator": GeneratorExit, "!mute": Mute}[where]("now")
    return where


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no words")

    __repr__ = __str__


class Odd(Image.Image):
    def tobytes(self, *words, **named):
        raise SystemExit(0)


class Colours(Method):
    """One colour each"""

    tunes = True

    def __init__(self, settings, context):
        super().__init__(settings, context)
        if fault("constructor", ""):
            raise RuntimeError("no engine in /home/somebody/engines/v8.bin")

    def fit(self, subject, out_dir, *, seed):
        if os.environ.get("FAULT") == "elsewhere":
            os.chdir(os.environ["ELSEWHERE"])
        (out_dir / "colour.txt").write_text(str(seed % 255))
        match fault("fit", subject.name):
            case "raise":
                raise ValueError("cannot see the dog")
            case "":
                pass
            case path:
                if path.startswith("native:"):
                    subprocess.run(["cp", out_dir / "colour.txt", path[7:]], check=True)
                else:
                    Path(path).write_text("stray")

    def load(self, subject, out_dir):
        if fault("load", subject.name):
            raise KeyError("weights")
        self.subject = subject.name
        self.colour = int((out_dir / "colour.txt").read_text())
        return self

    def generate(self, prompts, seeds):
        side, mode, n = self.context.sampler.size_px, "RGB", len(prompts)
        match fault("generate", self.subject):
            case "raise":
                raise ValueError("out of colour")
            case "first":
                if "beach" in prompts[0]:
                    raise ValueError("no beach")
            case "number":
                n -= 1
            case "size":
                side -= 1
            case "mode":
                mode = "L"
            case "type":
                return [None] * n
            case "lazy":
                stream = io.BytesIO()
                Image.effect_noise((side, side), 9).convert("RGB").save(stream, "PNG")
                return [Image.open(io.BytesIO(stream.getvalue()[:3000])) for _ in prompts]
            case "odd":
                odd = Image.new("RGB", (side, side))
                odd.__class__ = Odd
                return [odd] * n
        made = [Image.new("RGB", (side, side), (self.colour, s % 255, len(p)))
                for p, s in zip(prompts, seeds)]
        return [image.convert(mode) for image in made[:n]]
'''
N_IMAGES = 6  # Of each of two subjects: two prompts and the class, two images each.


def run_own(own, *extra, status=0):
    path, words = own
    alongside = () if "--alongside" in extra else ("--alongside", "")
    return invoke("run", "--method", f"{path}:Colours", *words, *alongside, *extra, status=status)


def images_of(run_dir):
    return {p.relative_to(run_dir).as_posix() for p in run_dir.glob("images/*/*/*.png")}
