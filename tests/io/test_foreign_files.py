"""Data as other programs write it: spreadsheets, Windows, Hugging Face, VQA and COCO, and damaged files."""

from __future__ import annotations

import base64
import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from blip.io import arrow_reader, byte_sources, row_groups
from blip.io.byte_sources import TarMember
from blip.io.columns import Columns
from blip.io.inputs import find_inputs
from blip.io.readers import read
from blip.io.samples import Sample
from blip_lite.errors import BadRecord, UnreadableImage, UsageError
from tests.data.test_sources import png

CASES = Path(__file__).parents[1] / "cases"
needs_arrow = pytest.mark.skipif(find_spec("pyarrow") is None, reason="needs pyarrow")


def samples(path: Path, **columns: Any) -> list[Sample]:
    results = list(read(str(path), Columns(**columns)))
    assert not [r for r in results if isinstance(r, BadRecord)], results
    return [r for r in results if isinstance(r, Sample)]


def texts(path: Path, **columns: Any) -> list[tuple[str | None, tuple[str, ...]]]:
    """The name of the image and the texts of each row."""
    return [(s.path.name if s.path else None, s.texts) for s in samples(path, **columns)]


def test_shards_of_names_with_two_endings_and_with_masks_keep_their_texts() -> None:
    assert [len(s.texts) for s in samples(CASES / "multi_ext.tar", need_text=True)] == [1, 1]
    (sample,) = samples(CASES / "mask_between.tar", need_text=True)
    assert isinstance(sample.image.source, TarMember) and sample.image.source.name == "000.jpg"


@pytest.mark.parametrize(
    "text",
    [
        "image,caption\na.jpg,x\nb.jpg,y\n",
        "image;caption\na.jpg;x\nb.jpg;y\n",
        "image\tcaption\na.jpg\tx\nb.jpg\ty\n",
        "image| caption\na.jpg| x\nb.jpg| y\n",
        "image, caption\na.jpg, x\nb.jpg, y\n",
        "\ufeffimage,caption\r\na.jpg,x\r\nb.jpg,y\r\n",
        "sep=;\nimage;caption\na.jpg;x\nb.jpg;y\n",
        'Image,"Caption"\na.jpg,"x"\nb.jpg,y\n',
        "IMG,Text\na.jpg,x\nb.jpg,y\n",
        "file_name,text,,\na.jpg,x,,\nb.jpg,y,,\n",
        'id;image_path;captions\n1;a.jpg;"[""x""]"\n2;b.jpg;y\n',
        'caption,jpg\n"x",a.jpg\ny,b.jpg\n',
    ],
)
@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_text_tables_in_the_forms_of_spreadsheets(tmp_path: Path, text: str, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(text.encode())
    assert texts(path) == [("a.jpg", ("x",)), ("b.jpg", ("y",))]


def test_a_long_cell_in_another_column_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"image,caption,ocr\na.jpg,x,\nb.jpg,y,{'z' * 140_000}\n")
    assert texts(path) == [("a.jpg", ("x",)), ("b.jpg", ("y",))]


def test_an_invalid_row_of_a_text_table_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('image,caption\na.jpg,"x" y\nb.jpg,z\nc.jpg,"unclosed\nd.jpg,lost\n')
    bad, good, last = read(str(path), Columns())
    assert isinstance(bad, BadRecord) and bad.where == f"{path}:2" and isinstance(good, Sample)
    assert isinstance(last, BadRecord) and last.where == f"{path}:4" and "unexpected end of data" in last.reason


def test_a_column_that_occurs_twice_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,caption,caption\na.jpg,x,y\n")
    with pytest.raises(UsageError, match=r"column 'caption' occurs twice; columns are image, caption, caption"):
        list(read(str(tmp_path / "a.csv"), Columns()))


@pytest.mark.parametrize("name", ["image_path", "IMG", " Image ", "file_name", "filename", "filepath", "jpg", "photo"])
def test_common_image_columns_are_recognized_in_every_table(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({name: "a.jpg", "Caption": "x", "id": 1}) + "\n")
    assert texts(path) == [("a.jpg", ("x",))]
    assert samples(path)[0].fields == {"id": 1} and samples(path)[0].key == "a.jpg"
    assert [s.path for s in find_inputs([path])] == [tmp_path / "a.jpg"]


def test_the_named_image_column_has_precedence(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"image": "a.jpg", "thumb": "t.jpg"}\n')
    assert texts(path, image="thumb") == [("t.jpg", ())]
    assert [s.path for s in find_inputs([path], columns=Columns(image="Thumb"))] == [tmp_path / "t.jpg"]


@pytest.mark.skipif(os.name == "nt", reason="paths of another system")
def test_windows_paths_are_resolved_or_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(png())
    path = tmp_path / "a.csv"
    path.write_text("image\nphotos\\a.jpg\n.\\photos\\a.jpg\nC:\\photos\\a.jpg\n\\\\host\\share\\a.jpg\n")
    first, second, *refused = read(str(path), Columns())
    assert all(isinstance(r, Sample) and r.path is not None and r.path.is_file() for r in (first, second))
    for result in refused:
        assert isinstance(result, BadRecord) and "is a path on Windows; must be relative" in result.reason


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,", "data:image/png;name=a.png;base64,"])
def test_images_in_base64_are_read_from_the_table(tmp_path: Path, prefix: str) -> None:
    data = base64.encodebytes(png(7)).decode()
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"image": prefix + data, "text": "x"}) + "\n")
    (sample,) = samples(path)
    assert sample.read().getpixel((0, 0)) == (7, 7, 7) and sample.key == "a.jsonl:1" and data[:20] not in repr(sample)
    path.write_text(json.dumps({"image": "data:image/png;base64,%%"}) + "\n")
    with pytest.raises(UnreadableImage, match=r"a.jsonl:1: not valid base64"):
        samples(path)[0].read()


@needs_arrow
def test_a_dictionary_encoded_column_is_read_like_text() -> None:
    assert all(s.path is not None for s in samples(CASES / "categorical.parquet"))


@needs_arrow
def test_a_damaged_page_costs_its_row_group_only() -> None:
    path = CASES / "damaged_page.parquet"
    *damaged, third, fourth = samples(path)
    for sample in damaged:
        with pytest.raises(UnreadableImage, match=r"damaged_page.parquet:\d: cannot be read \(Output buffer size"):
            sample.read()
    assert third.read() and fourth.read() and third.texts == ("c",)
    bad, *good = read(str(path), Columns(image="text"))  # the damaged column is read with the other columns
    assert isinstance(bad, BadRecord) and bad.where == f"{path}:1-2" and "damaged rows in row group 0" in bad.reason
    assert [r.where for r in good] == [f"{path}:3", f"{path}:4"]


@needs_arrow
def test_image_cells_of_unreasonable_size_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"image": [png(), bytes(5000)]}), path)
    monkeypatch.setattr(arrow_reader, "MAX_IMAGE_BYTES", 4000)
    first, second = samples(path)
    assert first.read()
    with pytest.raises(UnreadableImage, match="at most 0 MiB are read"):
        second.read()
    row_groups.forget()
    monkeypatch.setattr(row_groups, "MAX_GROUP_BYTES", 1000)
    with pytest.raises(UnreadableImage, match="write smaller row groups"):
        first.read()


def test_a_member_that_claims_too_many_bytes_is_refused_before_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_sources, "read_at", lambda *args: pytest.fail("was read"))
    with pytest.raises(UnreadableImage, match=r"a.jpg: claims 10,240 MiB; at most 256 MiB are read"):
        TarMember(Path("s.tar"), "a.jpg", 0, 10 << 30).read()


def test_an_imagefolder_has_the_texts_of_its_metadata(tmp_path: Path) -> None:
    (sample,) = samples(CASES / "hf_folder", need_text=True)
    assert (sample.key, sample.texts) == ("0.jpg", ("a cat",))
    assert [(s.key, s.texts) for s in find_inputs([CASES / "hf_folder"])] == [(f"{CASES}/hf_folder/0.jpg", ("a cat",))]
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "metadata.csv").write_text(f"file_name,text\na.png,{split} one\nb.png,two\n")
        for name in ("a.png", "b.png", "c.png"):
            (tmp_path / split / name).write_bytes(png())
    (tmp_path / "train" / "c.txt").write_text("beside")
    result = {s.key: s.texts for s in samples(tmp_path)}
    assert result["train/a.png"] == ("train one",) and result["test/a.png"] == ("test one",) and len(result) == 6
    assert result["train/c.png"] == ("beside",) and result["test/c.png"] == ()
    assert len(find_inputs([tmp_path], globs=["a.png"])) == 2


@needs_arrow
def test_saved_datasets_are_read(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    kind = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    for split, value in (("train", 1), ("test", 2)):
        folder = tmp_path / split
        folder.mkdir()
        table = arrow.table({"image": arrow.array([{"bytes": png(value), "path": None}], kind), "text": [split]})
        name = str(folder / "data-00000-of-00001.arrow")
        with arrow.OSFile(name, "wb") as file, arrow.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
        (folder / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
        (sample,) = samples(folder)
        assert sample.texts == (split,) and sample.read().getpixel((0, 0)) == (value,) * 3
        assert find_inputs([folder])[0].texts == (split,)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(UsageError, match=r"2 splits; name one: .*train, .*test"):
        list(read(str(tmp_path), Columns()))
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["test"]}')
    assert samples(tmp_path)[0].texts == ("test",)


def vqa(folder: Path, answers: bool = True) -> Path:
    questions = [{"image_id": i, "question": f"is it {i}?", "question_id": 10 * i} for i in (42, 73)]
    path = folder / "v2_OpenEnded_mscoco_val2014_questions.json"
    path.write_text(json.dumps({"info": {}, "data_subtype": "val2014", "questions": questions}))
    if answers:
        annotations = [
            {"question_id": q["question_id"], "answers": [{"answer": a, "answer_id": 1} for a in ("yes", "no")]}
            for q in questions
        ]
        name = folder / "v2_mscoco_val2014_annotations.json"
        name.write_text(json.dumps({"annotations": annotations}))
    return path


def test_official_vqa_questions_are_read_with_their_annotations(tmp_path: Path) -> None:
    first, second = samples(vqa(tmp_path), roots=(Path("coco"),))
    assert first.path == Path("coco/val2014/COCO_val2014_000000000042.jpg")
    assert first.fields["question"] == "is it 42?" and first.fields["answer"] == ["yes", "no"]
    assert second.fields["question_id"] == 730
    with pytest.raises(UsageError, match="annotations without questions or images; name the questions file"):
        samples(tmp_path / "v2_mscoco_val2014_annotations.json")
    annotations = tmp_path / "v2_mscoco_val2014_annotations.json"
    annotations.write_text(json.dumps({"annotations": [{"question_id": 420, "answers": [{"answer": "a"}]}]}))
    _, bad = read(str(vqa(tmp_path, answers=False)), Columns())
    assert isinstance(bad, BadRecord) and "question 730 is not in v2_mscoco_val2014_annotations.json" in bad.reason
    annotations.unlink()
    assert "answer" not in samples(vqa(tmp_path, answers=False))[0].fields


def test_official_coco_captions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "captions_val2014.json"
    captions = [{"image_id": 1, "caption": "x"}, {"image_id": 2, "caption": "y"}, {"image_id": 1, "caption": "z"}]
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}]
    path.write_text(json.dumps({"images": images, "annotations": captions}))
    assert texts(path) == [("a.jpg", ("x", "z")), ("b.jpg", ("y",))]


def test_deeply_nested_json_is_a_bad_row_or_one_line(tmp_path: Path) -> None:
    deep = "[" * 200_000
    (tmp_path / "a.jsonl").write_text(f'{{"image": {deep}\n{{"image": "a.jpg"}}\n')
    bad, good = read(str(tmp_path / "a.jsonl"), Columns())
    assert isinstance(bad, BadRecord) and "nested too deeply" in bad.reason and isinstance(good, Sample)
    for text in (deep, '{"a": ' * 200_000):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(UsageError, match=r"a.json.*nested too deeply"):
            list(read(str(tmp_path / "a.json"), Columns()))


def test_sidecars_that_caption_writes_are_read_back(tmp_path: Path) -> None:
    for name, text in {"a.jpg": "a.caption", "b.jpg": "b.jpg.txt", "b.png": "b.png.txt", "c.jpg": "c.txt"}.items():
        (tmp_path / name).write_bytes(png())
        (tmp_path / text).write_text(f"text of {name}")
    assert texts(tmp_path) == [(n, (f"text of {n}",)) for n in ("a.jpg", "b.jpg", "b.png", "c.jpg")]
    (tmp_path / "b.jpg.txt").rename(tmp_path / "b.txt")
    (bad,) = [r for r in read(str(tmp_path), Columns()) if isinstance(r, BadRecord)]
    assert bad.reason == "b.txt may belong to other images too; must be b.jpg.txt"


def test_what_a_folder_holds_but_cannot_be_read_is_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "x.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    bad = [r for r in read(str(tmp_path), Columns()) if isinstance(r, BadRecord)]
    assert [(Path(r.where).name, r.reason) for r in bad] == [
        ("pipe.png", "not a file (a pipe, socket or device)"),
        ("x.jpg", "a folder, not a file"),
    ]


def test_the_error_of_an_empty_source_names_the_files_in_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no samples \(an empty folder\)"):
        list(read(str(tmp_path), Columns()))
    (tmp_path / "0.tar").write_bytes(b"")
    with pytest.raises(UsageError, match=r"name the shards themselves: .*/\*\.tar"):
        list(read(str(tmp_path), Columns()))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(png())
    (tmp_path / "empty").mkdir()
    good, empty = find_inputs([tmp_path / "photos", tmp_path / "empty"])
    assert good.read()
    with pytest.raises(UnreadableImage, match=r"empty: no inputs found"):
        empty.read()


def test_a_file_that_a_row_names_is_read_within_the_limits(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(UnreadableImage, match=r"folder\.jpg: is a folder, not an image file"):
        arrow_reader.TableCell(tmp_path / "t.parquet", 0, 0)._file("folder.jpg")
