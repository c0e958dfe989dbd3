"""Generates the class and never sees the subject, or both: the floor under every method."""

from __future__ import annotations

from pathlib import Path

from dreambench.base_models.spec import BaseModel
from dreambench.datasets.subjects import Subject
from dreambench.methods.base import Context, Method, NoSettings, Work
from dreambench.methods.generators import TextGenerator


class ClassOnly(Method):
    """The untouched base model with the class noun in the place of the subject."""

    n_references = 0
    most_subjects = 2

    def __init__(self, settings: NoSettings, context: Context) -> None:
        super().__init__(settings, context)
        self.model = context.load_base_model()

    @classmethod
    def count_work(cls, settings: NoSettings, base_model: BaseModel) -> Work:
        """See `methods.Method`."""
        return Work(samples=True)

    def load(self, subject: Subject, out_dir: Path) -> TextGenerator:
        """Return a generator that asks the base model for the class."""
        return TextGenerator(self.model, subject_phrase=subject.nouns)
