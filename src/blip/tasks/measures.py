"""Measures of a model on photos with captions, as the tasks report them: caption scores and retrieval."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from blip import inference
from blip.data.sources import Source
from blip.metrics.caption import score_captions
from blip.metrics.retrieval import recalls
from blip.model.blip import BlipModel
from blip.model.decoding import Decoding
from blip.tasks.base import Report
from blip.tasks.images import read_photos
from blip.tokenizer import Tokenizer, clean_caption

BATCH = 16


def photo_batches(source: Source, model: BlipModel, limit: int | None) -> Iterator[tuple[list[int], Tensor]]:
    """Indices and pixel_values of a source's photos, a few at a time."""
    count = len(source) if limit is None else min(limit, len(source))
    for start in range(0, count, BATCH):
        indices = list(range(start, min(start + BATCH, count)))
        yield indices, read_photos(source, indices, model.config).to(model.device)


@torch.inference_mode()
def caption_report(
    model: BlipModel, tokenizer: Tokenizer, source: Source, decoding: Decoding, limit: int | None = None
) -> Report:
    """Captions of all photos, scored against all references of each."""
    captions: list[str] = []
    for _, pixel_values in photo_batches(source, model, limit):
        captions += [best[0].text for best in inference.caption(model, tokenizer, pixel_values, decoding)]
    references = [list(source[i].texts) for i in range(len(captions))]
    rows = [
        {"key": source[i].key, "prediction": caption, "references": references[i]} for i, caption in enumerate(captions)
    ]
    return Report(metrics=score_captions(references, captions), rows=rows)


@torch.inference_mode()
def retrieval_report(
    model: BlipModel, tokenizer: Tokenizer, source: Source, max_length: int = 35, limit: int | None = None, k: int = 0
) -> Report:
    """R@1, 5, 10 both ways, by cosine; with k > 0 the k best are re-ranked by ITM logit + cosine (blip-spec 5.3)."""
    features, embeds = [], []
    for _, pixel_values in photo_batches(source, model, limit):
        image_embeds = model.encode_image(pixel_values)
        features.append(model.project_image(image_embeds))
        embeds.append(image_embeds)
    images = torch.cat(features)
    owner = np.concatenate([np.full(len(source[i].texts), i) for i in range(len(images))])
    texts = [clean_caption(t, 30) for i in range(len(images)) for t in source[i].texts]
    text_features = inference.embed_text(model, tokenizer, texts, max_length=max_length)
    scores = images.float() @ text_features.float().T
    if not k:
        return Report(metrics=recalls(scores.cpu().numpy(), owner), rows=[])
    joined = inference.retrieval_scores(model, tokenizer, torch.cat(embeds), texts, scores, k)
    by_image, by_text = inference.by_direction(joined, scores, k)
    return Report(metrics=recalls(by_image.cpu().numpy(), owner, by_text.T.cpu().numpy()), rows=[])
