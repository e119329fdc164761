"""Video retrieval: clips and their texts, both directions, a clip that cannot be decoded, the original's scores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from blip.data.sources import Reading
from blip.eval.pairs import rank_pairs
from blip.eval.run import run
from blip.eval.video import VideoEval, open_clips
from blip.inference import embed_text, embed_video
from blip.io import table_reader
from blip.io.columns import Columns
from blip.io.row import Row
from blip_lite.errors import BadRecord, UsageError
from tests.eval.photos import model
from tests.io.test_video import write_clip
from tests.oracle_files import oracle_model, tensors
from tests.test_inference import TEXTS, tokenizer
from tests.test_inference import clips as recorded_clips

COLOURS = ("red", "green", "blue")


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Three clips of a colour each and one invalid file, under MSRVTT's column names."""
    for name in COLOURS:
        write_clip(tmp_path / f"{name}.mp4", pictures=[Image.new("RGB", (32, 32), name)] * 10)
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    rows = [{"clip_name": name, "caption": f"a {name} wall"} for name in (*COLOURS, "broken")]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "test.jsonl"


def test_a_broken_clip_is_a_row_with_a_reason(clips: Path) -> None:
    loaded = model("retrieval")
    report = run(VideoEval(frames=2, k=3), loaded.model, loaded.tokenizer, open_clips(clips, Reading()))
    assert len(report.rows) == 6 and len(report.failed) == 1
    assert report.failed[0].startswith(f"{clips}:4: ") and "broken.mp4" in report.failed[0]
    assert {row["direction"] for row in report.rows} == {"video_to_text", "text_to_video"}
    assert {"video_to_text_r1", "text_to_video_r10", "text_to_video_median_rank", "r_mean"} <= set(report.metrics)
    assert report.measures["text_to_video_median_rank"].chance == 2


def test_nothing_that_can_be_decoded_is_an_error(clips: Path) -> None:
    clips.write_text(clips.read_text().splitlines()[-1])
    loaded = model("retrieval")
    with pytest.raises(UsageError, match="nothing to rank"):
        run(VideoEval(), loaded.model, loaded.tokenizer, open_clips(clips, Reading()))


def test_paths_may_be_in_a_column_of_their_own(clips: Path) -> None:
    path = clips.with_name("mine.csv")
    path.write_text("video,caption\nred.mp4,a red wall\n")
    assert open_clips(path, Reading())[0].image.path == clips.with_name("red.mp4")


def test_a_table_is_read_once_and_its_columns_can_be_named(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = clips.with_name("mine.csv"), list[Path]()
    path.write_text("film,words\nred.mp4,a red wall\n")
    rows = table_reader.rows

    def counted(name: Path, columns: Columns | None) -> Iterator[Row]:
        read.append(name)
        return rows(name, columns)

    monkeypatch.setattr(table_reader, "rows", counted)
    (clip,) = open_clips(path, Reading(image="film", text="words")).samples
    assert clip.texts == ("a red wall",) and clip.image.path == clips.with_name("red.mp4") and read == [path]


def test_rows_without_a_clip_are_named_or_skipped(clips: Path) -> None:
    path = clips.with_name("mine.jsonl")
    path.write_text('{"video": "red.mp4", "caption": "a red wall"}\n{"film": "x.mp4", "caption": "x"}\n')
    with pytest.raises(BadRecord, match=r"mine\.jsonl:2: no clip in a column of video, clip_name, image"):
        open_clips(path, Reading())
    opened = open_clips(path, Reading(skip_bad=True))
    assert len(opened) == 1 and len(opened.skipped) == 1
    path.write_text("")
    for name, problem in ((path, "holds no clips"), (clips.parent, "clips are listed in a table")):
        with pytest.raises(UsageError, match=problem):
            open_clips(name, Reading())


@torch.inference_mode()
def test_scores_equal_the_original() -> None:
    recorded, texts, blip = tensors("video"), TEXTS["captions"][:5], oracle_model("retrieval")
    states, vectors = embed_video(blip, recorded_clips(5))

    def encode(places: Sequence[int]) -> Tensor:
        return states[list(places)]

    to_texts, to_clips = rank_pairs(
        blip, tokenizer(), encode, vectors, embed_text(blip, tokenizer(), texts), texts, range(5), k=3
    )
    for ranking, name in ((to_texts, "score_v2t"), (to_clips, "score_t2v")):
        best = recorded[f"v5.{name}"].topk(3, dim=1)
        torch.testing.assert_close(ranking.scores, best.values, atol=2e-5, rtol=1e-5)
        assert torch.equal(ranking.top, best.indices)
