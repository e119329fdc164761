"""The original's three tasks for Cog, with its inputs and the form of its outputs (salesforce/BLIP predict.py)."""

# ruff: noqa: B008, E402 - inputs as defaults are how Cog declares them; the path comes first

import sys
from pathlib import Path as FilePath
from typing import ClassVar

sys.path[:0] = [str(FilePath(__file__).parent / folder) for folder in ("src", "lite/src")]

from cog import BasePredictor, Input, Path

import blip

CAPTIONING, ANSWERING, MATCHING = "image_captioning", "visual_question_answering", "image_text_matching"


class Predictor(BasePredictor):
    """One model per task, on the GPU if available."""

    models: ClassVar[dict[str, str]] = {
        CAPTIONING: "caption-base",
        ANSWERING: "vqa-base-capfilt",
        MATCHING: "retrieval-coco-base",
    }

    def setup(self) -> None:
        self.loaded = {task: blip.load(name) for task, name in self.models.items()}

    def predict(
        self,
        image: Path = Input(description="Input image"),
        task: str = Input(choices=[CAPTIONING, ANSWERING, MATCHING], default=CAPTIONING, description="Choose a task."),
        question: str | None = Input(
            default=None, description="Question about the image, for visual_question_answering."
        ),
        caption: str | None = Input(
            default=None, description="Text to compare with the image, for image_text_matching."
        ),
    ) -> str:
        """The caption, the answer, or the two scores of the match, as a sentence."""
        model = self.loaded[task]
        if task == CAPTIONING:
            return f"Caption: {model.caption(image, beams=3, max_length=20, min_length=5).text}"
        if task == ANSWERING:
            return f"Answer: {model.answer(image, _given(question, 'question', task)).text}"
        match = model.match([image], [_given(caption, "caption", task)])
        return (
            f"The image and text is matched with a probability of {match.itm.item():.4f}.\n"
            f"The image feature and text feature has a cosine similarity of {match.itc.item():.4f}."
        )


def _given(text: str | None, name: str, task: str) -> str:
    if not text:
        raise ValueError(f"{name}: must be given for the task {task}")
    return text
