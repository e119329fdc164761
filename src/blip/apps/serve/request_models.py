"""What a request may say, one model a verb: fields, ranges, defaults. The OpenAPI description is made from these."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from blip.apps.serve.jobs import Params

Text = Annotated[str, Field(min_length=1, max_length=2000)]
Image = Annotated[str, Field(description="base64 of an image file.")]
Url = Annotated[str, Field(max_length=2000, description="http(s) address of an image; where the server allows them.")]
IMAGES = ("image", "images", "url", "urls")


class Body(BaseModel):
    """What all verbs take. `images`, `urls`, `texts` and `questions` are lists: with one, the answer is a list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: Image | None = None
    images: Annotated[list[Image], Field(min_length=1)] | None = None
    url: Url | None = None
    urls: Annotated[list[Url], Field(min_length=1)] | None = None
    keys: Annotated[list[Annotated[str, Field(max_length=500)]], Field(description="Names of the images.")] | None = (
        None
    )
    model: Annotated[str | None, Field(description="One of /v1/models; default the first that can.")] = None

    @model_validator(mode="before")
    @classmethod
    def _not_null(cls, values: Any) -> Any:
        null = [name for name, value in values.items() if value is None]
        if null:
            raise ValueError(f"{null[0]} is null; leave out what is not given")
        return values

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in IMAGES if getattr(self, name) is not None]
        if len(given) != 1 and not (not given and self.texts_alone):
            raise ValueError(f"give one of image, images, url or urls, not {' and '.join(given) or 'none'}")
        if self.keys is not None and len(self.keys) != self.count:
            raise ValueError(f"{len(self.keys)} keys and {self.count} images; must be as many")
        return self

    @property
    def texts_alone(self) -> bool:
        """Whether there is no image to look at."""
        return False

    @property
    def count(self) -> int:
        """Images named."""
        return len(self.images or self.urls or [1]) if not self.texts_alone else 0

    @property
    def many(self) -> bool:
        """Whether the answer is a list."""
        return self.images is not None or self.urls is not None

    @property
    def needs(self) -> tuple[str, ...]:
        """What the model must be able to do: one of these, the first is preferred."""
        raise NotImplementedError

    def lines(self, image: int) -> tuple[str, ...]:
        """The texts that go with an image."""
        return ()

    def params(self) -> Params:
        """What the model's call is told, sorted."""
        raise NotImplementedError

    def _params(self, *names: str) -> Params:
        values = ((name, getattr(self, name)) for name in sorted(names))
        return tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in values)


class CaptionBody(Body):
    """Describes images."""

    prompt: Annotated[str | None, Field(max_length=200)] = None
    beams: Annotated[int, Field(ge=1, le=32, description="1 is greedy.")] = 3
    sample: Annotated[bool, Field(description="Nucleus sampling instead of beams.")] = False
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    top_k: Annotated[int, Field(ge=0, le=1000)] = 50
    temperature: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    min_length: Annotated[int, Field(ge=0, le=100, description="Ids, with the prompt, start and end.")] = 5
    max_length: Annotated[int, Field(ge=2, le=100, description="Ids, with the prompt, start and end.")] = 20
    num_captions: Annotated[int, Field(ge=1, le=32)] = 1
    repetition_penalty: Annotated[float | None, Field(ge=0.1, le=10)] = None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1, description="Of sampling.")] = 0

    @property
    def needs(self) -> tuple[str, ...]:
        return ("caption",)

    def params(self) -> Params:
        return self._params(*(name for name in CaptionBody.model_fields if name not in Body.model_fields))


class AnswerBody(Body):
    """Answers questions about images."""

    question: Text | None = None
    questions: Annotated[list[Text], Field(min_length=1, max_length=64)] | None = None
    answers: (
        Annotated[list[Text], Field(min_length=1, max_length=4000, description="The only answers allowed.")] | None
    ) = None
    top: Annotated[int, Field(ge=1, le=32, description="Answers a question.")] = 1
    k: Annotated[int, Field(ge=1, le=4000, description="Candidates kept after their first token.")] = 128
    beams: Annotated[int, Field(ge=1, le=32)] = 3
    max_length: Annotated[int, Field(ge=2, le=100)] = 10
    min_length: Annotated[int, Field(ge=0, le=100)] = 1

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        _check_one("question", self.question, "questions", self.questions)
        return self

    @property
    def many(self) -> bool:
        return super().many or self.questions is not None

    @property
    def needs(self) -> tuple[str, ...]:
        return ("answer",)

    def lines(self, image: int) -> tuple[str, ...]:
        return tuple(self.questions or [self.question or ""])

    def params(self) -> Params:
        return self._params("answers", "top", "k", "beams", "max_length", "min_length")


class MatchBody(Body):
    """Scores texts against images: every text with every image."""

    text: Text | None = None
    texts: Annotated[list[Text], Field(min_length=1, max_length=100)] | None = None
    head: Annotated[Literal["itm", "itc", "both"], Field(description="itm: chance of a match; itc: cosine.")] = "both"
    max_text_length: Annotated[int, Field(ge=3, le=128, description="Ids of a text.")] = 35

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        _check_one("text", self.text, "texts", self.texts)
        return self

    @property
    def many(self) -> bool:
        return super().many or self.texts is not None

    @property
    def needs(self) -> tuple[str, ...]:
        return ("match",)

    def lines(self, image: int) -> tuple[str, ...]:
        return tuple(self.texts or [self.text or ""])

    def params(self) -> Params:
        return self._params("head", "max_text_length")


class EmbedBody(Body):
    """Images, texts or pairs of both as vectors."""

    kind: Literal["image", "text", "multimodal"] = "image"
    text: Text | None = None
    texts: Annotated[list[Text], Field(min_length=1, max_length=100)] | None = None
    projected: Annotated[bool, Field(description="Unit vectors of the space that images and texts share.")] = True

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.kind == "image":
            if self.text is not None or self.texts is not None:
                raise ValueError("kind image takes no text; they go with text and multimodal")
            return self
        if self.kind == "text" and any(getattr(self, name) is not None for name in (*IMAGES, "keys")):
            raise ValueError("kind text takes neither images nor keys")
        if self.kind == "multimodal" and self.texts is not None and len(self.texts) != self.count:
            raise ValueError(f"{self.count} images and {len(self.texts)} texts; must be as many, or one text")
        _check_one("text", self.text, "texts", self.texts)
        return self

    @property
    def texts_alone(self) -> bool:
        return self.kind == "text"

    @property
    def many(self) -> bool:
        return super().many or self.texts is not None

    @property
    def needs(self) -> tuple[str, ...]:
        joined = self.projected and self.kind != "multimodal"
        return ("match" if joined else "image" if self.kind == "image" else "text",)

    def lines(self, image: int) -> tuple[str, ...]:
        if self.kind == "image":
            return ()
        return (self.texts[image] if self.texts is not None else self.text or "",)

    def params(self) -> Params:
        return self._params("kind", "projected")


class ExplainBody(Body):
    """Heat-maps: where the model looked for each token of a text, of its own caption, or of its answer."""

    text: Annotated[Text | None, Field(description="A text to match, or a question; none = the model's caption.")] = (
        None
    )
    method: Literal["gradcam", "attention", "rollout"] = "gradcam"
    layer: Annotated[int | None, Field(ge=0, le=47, description="Cross-attention, from 0; none = the usual.")] = None
    overlay: Annotated[
        Literal["mean", "words", "none"], Field(description="Pictures with the map over the image, as base64 PNG.")
    ] = "mean"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("caption",) if self.text is None else ("match", "answer")

    def lines(self, image: int) -> tuple[str, ...]:
        return () if self.text is None else (self.text,)

    def params(self) -> Params:
        return self._params("method", "layer", "overlay")


def _check_one(one: str, first: object, many: str, second: object) -> None:
    if (first is None) == (second is None):
        raise ValueError(f"give {one} or {many}, one of the two")
