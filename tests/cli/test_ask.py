"""`blip ask` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blip_lite.errors import UsageError
from tests.cli.conftest import Blip
from tests.record_schemas import problem

RANDOM = ("-m", "random-tiny")


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_one_question_about_one_image_prints_the_answer_alone(blip: Blip, photos: Path) -> None:
    result = blip("ask", photos / "a.png", "-q", "what is it?", *RANDOM)
    assert result.code == 0 and len(result.out.splitlines()) == 1 and "\t" not in result.out
    assert result.err.startswith("1 input, 1 done, 0 failed, ")


def test_every_question_is_answered_for_every_image(blip: Blip, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("how many?\n\n")
    result = blip("ask", photos, "-q", "what is it?", "--questions", tmp_path / "more.txt", *RANDOM, "--json")
    rows = records(result.out)
    assert result.code == 1 and "c.jpg: truncated" in result.err and "5 inputs, 4 done, 1 failed" in result.err
    assert [problem(row) for row in rows] == [None] * 9
    assert [(Path(row["key"]).name, row.get("question")) for row in rows[:5]] == [
        ("a.png", "what is it?"),
        ("a.png", "how many?"),
        ("b.jpg", "what is it?"),
        ("b.jpg", "how many?"),
        ("c.jpg", None),
    ]
    assert list(rows[0])[:6] == ["schema", "key", "question", "text", "score", "mode"]
    assert rows[0]["mode"] == "generate" and rows[4]["error"]["type"] == "UnreadableImage"
    table = blip("ask", photos / "a.png", "-q", "what is it?", "-q", "how many?", *RANDOM).out.splitlines()
    assert [line.split("\t")[1:] for line in table] == [[row["question"], row["text"]] for row in rows[:2]]


def test_answers_do_not_depend_on_the_batch(blip: Blip, photos: Path) -> None:
    args = (photos, "-q", "what is it?", "-q", "how many dogs are on the beach?", *RANDOM, "--json")
    runs = [records(blip("ask", *args, "--batch-size", str(size)).out) for size in (1, 3, 8)]
    for other in runs[1:]:
        for first, second in zip(runs[0], other, strict=True):
            assert first.get("text") == second.get("text")
            assert first.get("score") == pytest.approx(second.get("score"), abs=1e-4)


def test_top_answers_are_in_beam_order(blip: Blip, photos: Path) -> None:
    row = records(blip("ask", photos / "a.png", "-q", "what is it?", *RANDOM, "--top", "4", "--json").out)[0]
    assert len(row["alternatives"]) == 3
    assert len({row["text"], *(other["text"] for other in row["alternatives"])}) > 1


def test_questions_of_a_table_keep_their_ids(blip: Blip, photos: Path, tmp_path: Path) -> None:
    lines = [
        {"image": "photos/a.png", "question": "what is it?", "question_id": 17},
        {"image": "photos/a.png", "question": "how many?", "question_id": "x", "key": "mine"},
        {"image": "photos/b.jpg"},
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = blip("ask", tmp_path / "m.jsonl", *RANDOM, "--json")
    rows = records(result.out)
    assert result.code == 1 and "photos/b.jpg: no question in its row" in result.err
    assert [row.get("question_id") for row in rows] == [17, "x", None]
    assert rows[1]["key"] == "mine" and "error" in rows[2] and [problem(row) for row in rows] == [None] * 3


def test_a_second_run_resumes_or_does_nothing(blip: Blip, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    args = ("ask", photos / "a.png", photos / "b.jpg", "-q", "what is it?", "-q", "how many?", *RANDOM, "-o", out)
    assert blip(*args).code == 0
    whole = out.read_text()
    out.write_text("".join(whole.splitlines(keepends=True)[:3]))
    result = blip(*args, "--resume")
    assert result.code == 0 and "1 done, 1 skipped" in result.err and out.read_text() == whole
    assert blip(*args, "--skip-existing").code == 0 and out.read_text() == whole


def test_a_captioning_model_is_refused_with_the_names_of_others(blip: Blip, photos: Path) -> None:
    result = blip("ask", photos / "a.png", "-q", "what is it?", "-m", "tiny")
    assert result.code == 3 and result.out == ""
    advice = "models of the family vqa can; use vqa-base, vqa-base-capfilt or tiny-vqa"
    assert result.err == f"blip: error: model 'tiny' cannot answer; {advice}\n"


def test_the_default_is_the_bundled_vqa_model(blip: Blip, photos: Path) -> None:
    result = blip("ask", photos / "a.png", "-q", "is there a dog?")
    assert result.code == 0 and result.out.strip() in ("yes", "no")
    row = json.loads(blip("ask", photos / "a.png", "-q", "is there a dog?", "--json").out)
    assert row["model"] == "tiny-vqa"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "no questions; give -q QUESTION, --questions FILE, or a table with a column question"),
        (("-q", "x", "--mode", "guess"), "--mode guess; must be generate or rank"),
        (("-q", "x", "--mode", "rank"), "--mode rank needs the answers to choose from"),
        (("-q", "x", "--mode", "generate", "--answers", "a,b"), "--answers with --mode generate; must be used with"),
        (("-q", "x", "--answers", " , "), "has no answers, must be a file (one per line) or a,b,c"),
        (("-q", "x", "--beams", "0"), "--beams 0; must be an integer from 1 to 32"),
        (("-q", "x", "--answers", "no.txt"), "--answers no.txt; No such file"),
        (("-q", "x", "--answers", "no.json"), "--answers no.json; [Errno 2] No such file"),
        (("--questions", "no.txt"), "--questions no.txt; No such file"),
    ],
)
def test_usage_errors_are_one_line(blip: Blip, photos: Path, args: tuple[str, ...], message: str) -> None:
    result = blip("ask", photos / "a.png", *RANDOM, *args)
    assert result.code == 2 and result.out == "" and message in result.err and len(result.err.splitlines()) == 1


def test_device_and_dtype_from_the_environment(blip: Blip, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = ("ask", photos / "a.png", "-q", "what is it?", *RANDOM)
    monkeypatch.setenv("BLIP_DEVICE", "cuda:7")
    result = blip(*args)
    assert result.code == 4 and "device 'cuda:7' is not available" in result.err
    monkeypatch.setenv("BLIP_DTYPE", "fp7")
    result = blip(*args, "--device", "cpu")
    assert result.code == 2 and "dtype 'fp7'; must be auto, fp32, bf16, fp16" in result.err
    assert blip(*args, "--device", "cpu", "--dtype", "fp32").code == 0


def test_an_image_is_encoded_once_for_all_its_questions(
    blip: Blip, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blip.model.blip import BlipModel

    sizes = []
    encode = BlipModel.encode_image

    def counted(self: BlipModel, pixel_values: Any) -> Any:
        sizes.append(len(pixel_values))
        return encode(self, pixel_values)

    monkeypatch.setattr(BlipModel, "encode_image", counted)
    questions = [word for i in range(20) for word in ("-q", f"what is number {i}?")]
    result = blip("ask", photos / "a.png", photos / "b.jpg", *questions, *RANDOM)
    assert sizes == [2] and len(result.out.splitlines()) == 40


def test_answers_of_a_closed_list_are_ranked(blip: Blip, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("yes\nno\non the table\n\nno\n")
    (tmp_path / "list.json").write_text('["yes", "no", "on the table"]')
    args = ("ask", photos / "a.png", photos / "b.jpg", "-q", "is it day?", *RANDOM, "--json", "--top", "3", "--answers")
    rows = records(blip(*args, "yes, no,on the table").out)
    assert [problem(row) for row in rows] == [None] * 2 and rows[0]["mode"] == "rank"
    assert {row["text"] for row in (rows[0], *rows[0]["alternatives"])} == {"yes", "no", "on the table"}
    assert blip(*args, tmp_path / "list.txt", "--mode", "rank").out == blip(*args, tmp_path / "list.json").out
    assert records(blip(*args, tmp_path / "list.txt").out) == rows
    first = records(blip(*args, tmp_path / "list.txt", "--k", "1").out)[0]
    assert "alternatives" not in first
    alone = records(blip(*args, tmp_path / "list.txt", "--batch-size", "1").out)
    for first, second in zip(rows, alone, strict=True):
        assert first["text"] == second["text"] and first["score"] == pytest.approx(second["score"], abs=1e-4)


def test_the_score_of_a_ranked_answer_is_the_mean_of_its_tokens(photos: Path) -> None:
    import torch

    from blip import inference
    from blip.api import load_random
    from blip.io.image import prepare
    from blip_lite.image import read

    model = load_random("vqa")
    best = model.answer(photos / "a.png", "what is it?", answers=["no", "on the table"], top=2)
    config = model.config
    pixels = prepare(
        [read(photos / "a.png")], size=config.vision.image_size, mean=config.image_mean, std=config.image_std
    )
    with torch.inference_mode():
        embeds = model.backend.module.encode_image(pixels)
        states, mask = inference.question_states(model.backend.module, model.tokenizer, embeds, ["what is it?"])
        for answer in (best, *best.alternatives):
            ids = model.tokenizer.encode([answer.text], first="dec").input_ids
            logprobs = model.backend.module.decode(ids, None, states, mask)[0, :-1].log_softmax(dim=-1)
            assert answer.score == pytest.approx(float(logprobs.gather(1, ids[0, 1:, None]).mean()), abs=1e-4)
    with pytest.raises(UsageError, match="no answers given; at least one is needed"):
        model.answer(photos / "a.png", "what is it?", answers=[])


def test_an_invalid_answer_list_is_one_line(blip: Blip, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"yes": 1}')
    result = blip("ask", photos / "a.png", "-q", "is it day?", *RANDOM, "--answers", tmp_path / "bad.json")
    assert result.code == 2 and "bad.json; must be a JSON list of texts" in result.err


def test_statements_about_two_images_are_true_or_false(blip: Blip, photos: Path) -> None:
    args = ("ask", photos / "b.jpg", photos / "c.jpg", "--pair", photos / "a.png", *RANDOM)
    result = blip(*args, "-q", "both are grey", "-q", "the left image is blue", "--json")
    rows = records(result.out)
    assert result.code == 1 and [problem(row) for row in rows] == [None] * 3
    assert rows[0]["mode"] == "statement" and rows[0]["text"] in ("true", "false") and rows[0]["pair"].endswith("a.png")
    assert (rows[0]["text"] == "true") == (rows[0]["score"] > 0.5)
    missing = blip(*args)
    assert missing.code == 2 and "--pair: no statement" in missing.err
    wrong = blip("ask", photos / "b.jpg", "--pair", photos / "a.png", "-q", "x", "-m", "random-tiny-vqa")
    assert wrong.code == 3 and "cannot compare; models of the family nlvr can; use nlvr-base" in wrong.err
