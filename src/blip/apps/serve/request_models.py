"""Request models, one per endpoint. The OpenAPI description is generated from them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from blip.apps.serve.jobs import Params

Text = Annotated[str, Field(min_length=1, max_length=2000)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=100)]
Image = Annotated[str, Field(min_length=1, description="An image file in base64, or as a data URL.")]
Url = Annotated[str, Field(min_length=1, max_length=2000, description="http(s) URL of an image.")]
Key = Annotated[str, Field(min_length=1, max_length=500)]
IMAGES = ("image", "images", "url", "urls")


class Body(BaseModel):
    """Fields of all endpoints. With a list of images, URLs, texts or questions the response is a list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text_field: ClassVar[str] = ""  # the field for one text; the field for several ends with an s
    text_required: ClassVar[bool] = False
    capability: ClassVar[str]  # that the model needs
    record: ClassVar[str]  # schema of the response

    image: Image | None = None
    images: Annotated[list[Image], Field(min_length=1)] | None = None
    url: Url | None = None
    urls: Annotated[list[Url], Field(min_length=1)] | None = None
    keys: Annotated[list[Key], Field(min_length=1, description="Names of the images.")] | None = None
    model: (
        Annotated[str, Field(min_length=1, description="One of /v1/models; default: the first with the capability.")]
        | None
    ) = None

    @model_validator(mode="before")
    @classmethod
    def _not_null(cls, values: Any) -> Any:
        null = [name for name, value in values.items() if value is None]
        if null:
            raise ValueError(f"{null[0]} is null; omit fields without a value")
        return values

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        names = [name for name in IMAGES if getattr(self, name) is not None]
        if len(names) != 1 and (names or not self.text_only):
            raise ValueError(f"exactly one of {', '.join(IMAGES)} is required, not {' and '.join(names) or 'none'}")
        if self.keys is not None and len(self.keys) != self.num_images:
            raise ValueError(f"{len(self.keys)} keys and {self.num_images} images; counts must match")
        if self.text_required:
            self._check_text()
        return self

    @property
    def text_only(self) -> bool:
        """Whether the request has no image."""
        return False

    @property
    def num_images(self) -> int:
        return 0 if self.text_only else len(self.images or self.urls or [1])

    @property
    def is_list(self) -> bool:
        """Whether the response is a list."""
        several_texts = getattr(self, f"{self.text_field}s", None)
        return not (self.images is None and self.urls is None and several_texts is None)

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Capabilities of which the model needs one, in order of preference."""
        return (self.capability,)

    @property
    def all_texts(self) -> tuple[str, ...]:
        single, several = (getattr(self, name, None) for name in (self.text_field, f"{self.text_field}s"))
        return tuple(several) if several is not None else () if single is None else (single,)

    def texts_for(self, index: int) -> tuple[str, ...]:
        """Texts of the image with this index."""
        return self.all_texts

    def params(self) -> Params:
        """Arguments of the model's method, sorted by name."""
        texts = {self.text_field, f"{self.text_field}s"}
        names = sorted(set(type(self).model_fields) - set(Body.model_fields) - texts)
        values = ((name, getattr(self, name)) for name in names)
        return tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in values)

    def _check_text(self) -> None:
        single, several = self.text_field, f"{self.text_field}s"
        if (getattr(self, single) is None) == (getattr(self, several) is None):
            raise ValueError(f"exactly one of {single} and {several} is required")


class CaptionBody(Body):
    """Describe images."""

    capability: ClassVar[str] = "caption"
    record: ClassVar[str] = "caption"

    prompt: Annotated[str, Field(max_length=200)] | None = None
    beams: Annotated[int, Field(ge=1, le=32, description="1 is greedy.")] = 3
    sample: Annotated[bool, Field(description="Nucleus sampling instead of beam search.")] = False
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    top_k: Annotated[int, Field(ge=0, le=1000)] = 50
    temperature: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    min_length: Annotated[int, Field(ge=0, le=100, description="Default: 5, or max_length if less.")] | None = None
    max_length: Annotated[int, Field(ge=2, le=100, description="Token ids, with prompt, start and end.")] = 20
    num_captions: Annotated[int, Field(ge=1, le=32)] = 1
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1, description="Random seed for sampling.")] = 0


class AnswerBody(Body):
    """Answer questions about images."""

    text_field: ClassVar[str] = "question"
    text_required: ClassVar[bool] = True
    capability: ClassVar[str] = "answer"
    record: ClassVar[str] = "answer"

    question: Text | None = None
    questions: Annotated[list[Text], Field(min_length=1, max_length=64)] | None = None
    answers: Annotated[list[Text], Field(min_length=1, max_length=4000, description="Allowed answers.")] | None = None
    top: Annotated[int, Field(ge=1, le=32, description="Number of answers per question.")] = 1
    k: Annotated[int, Field(ge=1, le=4000, description="Allowed answers kept after their first token.")] = 128
    beams: Annotated[int, Field(ge=1, le=32)] = 3
    max_length: Annotated[int, Field(ge=2, le=100)] = 10
    min_length: Annotated[int, Field(ge=0, le=100)] = 1


class MatchBody(Body):
    """Score every text against every image."""

    text_field: ClassVar[str] = "text"
    text_required: ClassVar[bool] = True
    capability: ClassVar[str] = "match"
    record: ClassVar[str] = "match"

    text: Text | None = None
    texts: Texts | None = None
    head: Annotated[
        Literal["itm", "itc", "both"], Field(description="itm: probability of a match; itc: cosine similarity.")
    ] = "both"
    max_text_length: Annotated[int, Field(ge=3, le=128, description="Token ids per text.")] = 35


class EmbedBody(Body):
    """Compute vectors of images, texts or pairs of both."""

    text_field: ClassVar[str] = "text"
    record: ClassVar[str] = "embedding"

    kind: Literal["image", "text", "multimodal"] = "image"
    text: Text | None = None
    texts: Texts | None = None
    projected: Annotated[bool, Field(description="Unit vectors in the space shared by images and texts.")] = True

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.kind == "image":
            if self.all_texts:
                raise ValueError("kind image takes no texts; use kind text or multimodal")
            return self
        if self.kind == "text" and any(getattr(self, name) is not None for name in (*IMAGES, "keys")):
            raise ValueError("kind text takes neither images nor keys")
        if self.kind == "multimodal" and self.texts is not None and len(self.texts) != self.num_images:
            raise ValueError(f"{self.num_images} images and {len(self.texts)} texts; counts must match, or give text")
        self._check_text()
        return self

    @property
    def text_only(self) -> bool:
        return self.kind == "text"

    @property
    def capabilities(self) -> tuple[str, ...]:
        if self.projected and self.kind != "multimodal":
            return ("match",)
        return ("image" if self.kind == "image" else "text",)

    def texts_for(self, index: int) -> tuple[str, ...]:
        return self.all_texts[index : index + 1] if self.texts is not None else self.all_texts


class ExplainBody(Body):
    """Compute heat-maps: where the model attends for each token of a text, of its own caption, or of its answer."""

    text_field: ClassVar[str] = "text"
    record: ClassVar[str] = "explain"

    text: Annotated[Text, Field(description="A text to match or a question; default: the model's caption.")] | None = (
        None
    )
    method: Literal["gradcam", "attention", "rollout"] = "gradcam"
    layer: Annotated[int, Field(ge=0, le=47, description="Cross-attention layer from 0.")] | None = None
    overlay: Annotated[
        Literal["mean", "words", "none"], Field(description="Base64 PNGs of the heat-map over the image.")
    ] = "mean"

    @property
    def capabilities(self) -> tuple[str, ...]:
        return ("caption",) if self.text is None else ("match", "answer")


BODIES: dict[str, type[Body]] = {
    "caption": CaptionBody,
    "answer": AnswerBody,
    "match": MatchBody,
    "embed": EmbedBody,
    "explain": ExplainBody,
}
