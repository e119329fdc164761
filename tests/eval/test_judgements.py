"""Human ratings: both file formats, left-out captions, correlation with known scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blip.data.judgements import read_judgements
from blip.eval.judgements import JudgementsEval
from blip.eval.run import run
from blip_lite.errors import BadRecord, UsageError
from tests.eval.photos import model
from tests.train.photos import write_photos


@pytest.fixture
def expert(tmp_path: Path) -> Path:
    """Flickr8k's form: captions of other photos rated by three people, one of its own photo."""
    write_photos(tmp_path)
    tokens = [f"{name}.png#0\ta {name} wall" for name in ("red", "blue", "green")]
    (tmp_path / "Flickr8k.token.txt").write_text("\n".join(tokens))
    rows = ["red.png\tblue.png#0\t1\t1\t2", "red.png\tgreen.png#0\t2\t3\t3", "red.png\tred.png#0\t4\t4\t4"]
    (tmp_path / "ExpertAnnotations.txt").write_text("\n".join(rows))
    return tmp_path / "ExpertAnnotations.txt"


def test_both_forms_are_read(expert: Path) -> None:
    captions = read_judgements(expert)
    assert [(caption.text, caption.ratings, caption.same_photo) for caption in captions] == [
        ("a blue wall", (1, 1, 2), False),
        ("a green wall", (2, 3, 3), False),
        ("a red wall", (4, 4, 4), True),
    ]
    table = expert.with_name("rated.jsonl")
    rows = [
        {"image": "red.png", "caption": "a", "ratings": [1, 2]},
        {"image": "red.png", "caption": "b", "rating": 3.5},
    ]
    table.write_text("\n".join(map(json.dumps, rows)))
    assert [caption.ratings for caption in read_judgements(table)] == [(1, 2), (3.5,)]


def test_ratings_follow_scores_that_rank_alike(expert: Path) -> None:
    captions = read_judgements(expert)
    scores = [{"key": caption.key, "text": caption.text, "itm": i, "itc": -i} for i, caption in enumerate(captions)]
    report = JudgementsEval().score(captions, scores)
    # six pairs of score and rating: 9 comparisons between the captions, 8 of them in order, 1 a tie
    assert report.metrics["tau_c_itm"] == pytest.approx(8 / (6**2 * 1 / (2 * 2)), abs=1e-9)
    assert report.metrics["tau_c_itc"] == pytest.approx(-report.metrics["tau_c_itm"])
    assert report.skipped == {"own captions": "1 with their own image"}


def test_a_model_scores_rated_captions(expert: Path) -> None:
    loaded = model("retrieval")
    report = run(JudgementsEval(), loaded.model, loaded.tokenizer, read_judgements(expert))  # type: ignore[arg-type]
    assert len(report.rows) == 2 and 0 <= report.rows[0]["scores"]["itm"] <= 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("red.png\tblue.png#0", "2 columns; must be image, caption id and ratings"),
        ("red.png\tblue.png#7\t1", "caption 'blue.png#7' is not in the file of captions"),
        ("red.png\tblue.png#0\tgood", "must be numbers"),
        ("red.png\tblue.png#0\tnan", "all finite numbers"),
    ],
)
def test_a_broken_line_is_named(expert: Path, line: str, message: str) -> None:
    expert.write_text(line)
    with pytest.raises(BadRecord, match=f"ExpertAnnotations.txt:1: .*{message}"):
        read_judgements(expert)


def test_a_file_without_ratings_is_an_error(expert: Path) -> None:
    expert.write_text("\n")
    with pytest.raises(UsageError, match="holds no rated captions"):
        read_judgements(expert)
