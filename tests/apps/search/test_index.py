"""An index while its photos are added, changed, moved and deleted."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import blip
from blip.apps.demo.uploads import EXAMPLES
from blip.apps.search import similar, vectors
from blip.apps.search.database import FILE, LOCK, Damaged
from blip.apps.search.index import Index
from blip.apps.search.query import Part
from blip.apps.search.update import UpdateOptions
from blip_lite.errors import CheckpointMismatch, UnreadableImage, UsageError
from tests.apps.search.conftest import Paint


def names(index: Index, query: object = "a cat", **options: object) -> list[str]:
    return [Path(hit.path).name for hit in index.search(query, rerank=0, **options)]  # type: ignore[arg-type]


def pictures(index: Index) -> list[tuple[int, bytes]]:
    with sqlite3.connect(index.folder / FILE) as db:
        return db.execute("SELECT id, hash FROM pictures ORDER BY id").fetchall()


def test_hits_are_ordered_by_cosine(index: Index, photos: Path, model: blip.Model) -> None:
    assert index.add_dir(photos).new == 6
    hits = index.search("a cat", rerank=0, top=4)
    paths = sorted(photos.rglob("*.png"))
    cosines = model.embed_image(paths).vectors @ model.embed_text("a cat").vectors[0]
    best = np.argsort(-cosines)[:4]
    assert [hit.path for hit in hits] == [str(paths[i]) for i in best]
    assert [hit.rank for hit in hits] == [1, 2, 3, 4]
    assert np.allclose([hit.score for hit in hits], cosines[best], atol=1e-3)
    assert hits[0].score == pytest.approx(hits[0].itc)


def test_reranked_order_equals_model_rank(index: Index, photos: Path, model: blip.Model) -> None:
    index.add_dir(photos)
    paths = sorted(photos.rglob("*.png"))
    hits, ranked = index.search("a cat", rerank=4), model.rank("a cat", paths, rerank=4)
    assert [hit.path for hit in hits] == [hit.path for hit in ranked]
    assert [hit.itm is None for hit in hits] == [False] * 4 + [True] * 2
    for a, b in zip(hits, ranked, strict=True):
        assert a.score == pytest.approx(b.score, abs=2e-3) and a.itm == pytest.approx(b.itm, abs=2e-3)


def test_photo_finds_itself_and_query_terms_are_summed(index: Index, photos: Path, model: blip.Model) -> None:
    index.add_dir(photos)
    assert names(index, photos / "3.png", top=1) == ["3.png"]
    hits = index.search([Part("a cat"), Part(photos / "2.png", -0.5)], rerank=0, top=1)
    paths = sorted(photos.rglob("*.png"))
    images = model.embed_image(paths).vectors
    scores = (
        images @ model.embed_text("a cat").vectors[0] - 0.5 * images @ model.embed_image(photos / "2.png").vectors[0]
    )
    assert hits[0].path == str(paths[int(scores.argmax())]) and hits[0].score == pytest.approx(scores.max(), abs=2e-3)
    with pytest.raises(UsageError, match="query terms cancel out"):
        index.search([Part("a cat"), Part("a cat", -1)])


def test_negative_text_counts_in_reranking(index: Index, photos: Path, model: blip.Model) -> None:
    index.add_dir(photos)
    hits = index.search([Part("a cat"), Part("a dog", -1)], rerank=128)
    logits = model.match_logits([hit.path for hit in hits], ["a cat", "a dog"])[..., 1]
    itc = model.embed_image([h.path for h in hits]).vectors @ model.embed_text(["a cat", "a dog"]).vectors.T
    expected = (logits + itc) @ [1, -1]
    assert np.allclose([hit.score for hit in hits], expected, atol=3e-3) and (np.diff(expected) <= 3e-3).all()


def test_unchanged_photos_are_not_processed_again(index: Index, photos: Path) -> None:
    index.add_dir(photos)
    before = {path.name: path.stat().st_mtime_ns for path in index.folder.glob("vectors*")}
    fresh = Index.open(index.folder)  # without a model: none is needed
    report = fresh.update()
    assert (report.unchanged, report.new) == (6, 0)
    assert {path.name: path.stat().st_mtime_ns for path in index.folder.glob("vectors*")} == before


def test_moved_file_keeps_its_vector_and_copy_shares_it(index: Index, photos: Path, model: blip.Model) -> None:
    index.add_dir(photos)
    before = pictures(index)
    (photos / "new").mkdir()
    (photos / "1.png").rename(photos / "new" / "one.png")
    shutil.copy(photos / "2.png", photos / "two.png")
    report = Index.open(index.folder).update()  # again without a model
    assert (report.moved, report.copied, report.removed, report.new) == (1, 1, 0, 0)
    assert pictures(index) == before
    assert set(names(index)) == {"0.png", "one.png", "2.png", "two.png", "3.png", "4.png", "5 ü.png"}


def test_changed_and_deleted_files(index: Index, photos: Path, paint: Paint) -> None:
    index.add_dir(photos)
    paint("0.png", 77)
    (photos / "1.png").unlink()
    os.utime(photos / "2.png", ns=(1, 1))  # touched, not changed
    report = index.update()
    assert (report.changed, report.removed, report.unchanged) == (1, 1, 4)
    assert names(index, photos / "0.png", top=1) == ["0.png"] and "1.png" not in names(index)
    assert len(pictures(index)) == 5
    assert vectors_of(index) == 5


def vectors_of(index: Index) -> int:
    with index.snapshot() as (_, state):
        assert state is not None
        return len(state)


def test_unreadable_files_do_not_stop_the_others(index: Index, photos: Path, paint: Paint) -> None:
    (photos / "bad.png").write_bytes((photos / "0.png").read_bytes()[:300])
    (photos / "empty.jpg").touch()
    os.mkfifo(photos / "pipe.jpg")
    with pytest.warns(UserWarning, match=r"pipe.jpg: not a file"):
        report = index.add_dir(photos)
    assert report.new == 6 and sorted(Path(path).name for path, _ in report.failed) == ["bad.png", "empty.jpg"]
    assert "truncated" in dict(index.status().failed)[str(photos / "bad.png")]
    (photos / "pipe.jpg").unlink()
    assert index.update().failed == []  # not read again
    paint("bad.png", 9)
    assert index.update().changed == 1 and len(index.status().failed) == 1


def test_missing_folder_keeps_its_photos_until_pruned(index: Index, photos: Path, tmp_path: Path) -> None:
    index.add_dir(photos)
    photos.rename(tmp_path / "unplugged")
    assert index.update().missing == [str(photos)] and len(names(index)) == 6
    report = index.prune()
    assert report.removed == 6 and names(index) == [] and index.roots() == []


def test_prune_adds_nothing(index: Index, photos: Path, paint: Paint) -> None:
    index.add_dir(photos)
    paint("later.png", 50)
    (photos / "0.png").unlink()
    assert index.prune([photos]).removed == 1 and "later.png" not in names(index)
    with pytest.raises(UsageError, match="not an indexed folder"):
        index.prune([photos / "sub dir"])


def test_nested_folders_keep_their_own_rules(index: Index, photos: Path, paint: Paint) -> None:
    paint(".hidden/h.png", 60)
    index.add_dir(photos)
    index.add_dir(photos / ".hidden")
    assert index.update().removed == 0 and len(names(index)) == 7


def test_file_excluded_by_one_folder_stays_if_another_includes_it(index: Index, photos: Path) -> None:
    index.add_dir(photos)
    index.add_dir(photos / "sub dir")
    report = index.add_dir(photos, recursive=False, globs=["!3.png"])
    assert report.removed == 1 and len(names(index)) == 5
    assert index.update().unchanged == 5


def test_new_rules_drop_excluded_files(index: Index, photos: Path) -> None:
    index.add_dir(photos)
    assert index.add_dir(photos, recursive=False, globs=["!3.png"]).removed == 2
    assert index.update().unchanged == 4


def test_other_model_is_rejected_until_a_rebuild(index: Index, photos: Path, paint: Paint) -> None:
    index.add_dir(photos)
    other = blip.load_random(seed=1)
    paint("later.png", 80)
    for call in (lambda i: i.search("a cat"), lambda i: i.update(), lambda i: i.model()):
        with Index.open(index.folder, model=other) as reopened, pytest.raises(CheckpointMismatch, match="--rebuild"):
            call(reopened)
    with Index.open(index.folder, model=other) as reopened:
        assert reopened.rebuild().new == 7 and len(names(reopened)) == 7


def test_search_under_a_folder(index: Index, photos: Path) -> None:
    index.add_dir(photos)
    assert names(index, under=photos / "sub dir") == ["5 ü.png"]
    with pytest.raises(UsageError, match="contains no indexed file"):
        index.search("a cat", under=photos / "no")
    assert names(index, min_score=2.0) == []


def test_stopped_update_resumes(index: Index, photos: Path) -> None:
    report = index.add_dir(photos, batch_size=2, progress=lambda done, total: done < 4)
    assert report.stopped and report.new == 4
    assert len(names(index)) == 4  # found in the database, before the first vector file
    assert not list(index.folder.glob("vectors*"))
    report = index.update()
    assert (report.new, report.unchanged) == (2, 4) and vectors_of(index) == 6


def test_moved_files_keep_their_vectors_after_a_stopped_update(index: Index, photos: Path) -> None:
    index.add_dir(photos)
    before = pictures(index)
    for path in sorted(photos.glob("*.png")):
        path.rename(photos / f"moved {path.name}")
    options = UpdateOptions(batch_size=1, progress=lambda done, total: False)
    assert index.update(options=options).stopped
    index.update()
    assert pictures(index) == before


def test_readers_do_not_wait_for_a_writer(index: Index, photos: Path, model: blip.Model) -> None:
    index.add_dir(photos)
    with index.writer() as db:
        db.execute("BEGIN IMMEDIATE")
        db.execute("DELETE FROM files")
        with Index.open(index.folder, model=model) as reader:
            assert len(names(reader)) == 6
        db.execute("ROLLBACK")


def test_reader_works_while_vector_files_are_replaced(
    index: Index, photos: Path, paint: Paint, model: blip.Model
) -> None:
    index.add_dir(photos)
    with Index.open(index.folder, model=model) as reader:
        assert len(names(reader)) == 6
        for number in range(3):
            paint(f"new {number}.png", 100 + number)
            index.update()
        assert len(names(reader)) == 9
    assert len(list(index.folder.glob("vectors*"))) == 1


def test_second_writer_reports_that_it_waits(index: Index, photos: Path) -> None:
    index.add_dir(photos)
    waiting, done = threading.Event(), []
    with index.writer():
        second = threading.Thread(target=lambda: done.append(Index.open(index.folder).update(on_wait=waiting.set)))
        second.start()
        assert waiting.wait(60) and not done
    second.join(60)
    assert done[0].unchanged == 6


def test_missing_vector_file_is_damage(index: Index, photos: Path) -> None:
    index.add_dir(photos)
    (index.folder / "vectors-1.usearch").unlink()
    with pytest.raises(Damaged, match=r"vectors-1\.usearch is missing"):
        index.search("a cat")


def test_invalid_index_and_photo_folders(tmp_path: Path, photos: Path, model: blip.Model) -> None:
    with pytest.raises(UsageError, match="is a file"):
        Index.open(photos / "0.png")
    with pytest.raises(UsageError, match="a folder of its own"):
        Index.open(photos, model=model).add_dir(photos)
    with pytest.raises(UsageError, match="no index here"):
        Index.open(tmp_path / "none", model=model).search("a cat")
    with pytest.raises(UsageError, match="no such folder"):
        Index.open(tmp_path / "none", model=model).add_dir(tmp_path / "nowhere")
    assert not (tmp_path / "none").exists()


def test_status_tolerates_a_file_deleted_by_a_writer(
    index: Index, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add_dir(photos)
    files = list(index.folder.iterdir())
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter([*files, folder / "vectors-9.usearch"]))
    assert index.status().bytes == sum(path.stat().st_size for path in files)


def test_list_is_a_sum_and_empty_query_is_rejected(index: Index, photos: Path) -> None:
    index.add_dir(photos)
    listed = index.search(["cat", photos / "1.png"], rerank=0)
    assert listed == index.search([Part("cat"), Part(photos / "1.png")], rerank=0)
    for query in ("", " ", [], ["cat", ""]):
        with pytest.raises(UsageError, match="query is empty"):
            index.search(query)


def test_query_photo_that_does_not_exist(index: Index, photos: Path) -> None:
    index.add_dir(photos)
    with pytest.raises(UnreadableImage, match="no such file"):
        index.search(photos / "none.png")


def test_captions_are_added_to_photos_without_one(index: Index, photos: Path, model: blip.Model) -> None:
    index.add_dir(photos)
    assert index.search("a cat", top=1)[0].caption is None
    report = index.add_dir(photos, captioner=model)
    assert (report.captioned, report.new, report.unchanged) == (6, 0, 6)
    assert index.add_dir(photos, captioner=model).captioned == 0
    hit = index.search("a cat", top=1)[0]
    assert hit.caption == model.caption(hit.path).text


def test_file_names_that_are_not_unicode(index: Index, paint: Paint, photos: Path) -> None:
    odd = os.path.join(os.fsencode(photos), b"\xff\n-.png")
    os.rename(photos / "0.png", odd)
    index.add_dir(photos)
    assert os.fsencode(index.search(Path(os.fsdecode(odd)), top=1)[0].path) == odd


def test_approximate_search(index: Index, photos: Path, monkeypatch: pytest.MonkeyPatch, model: blip.Model) -> None:
    index.add_dir(photos)
    expected = names(index)
    monkeypatch.setattr(vectors, "MAX_EXACT", 2)
    with Index.open(index.folder, model=model) as again:
        assert names(again) == expected


def test_similar_photos_are_grouped(index: Index, photos: Path) -> None:
    shutil.copy(photos / "2.png", photos / "two.png")
    index.add_dir(photos)
    (group,) = index.similar(0.999999)
    assert [Path(hit.path).name for hit in group] == ["2.png", "two.png"]
    assert group[1].score == pytest.approx(1, abs=1e-3)
    assert len(index.similar(0.0001)[0]) == 7
    assert index.similar(0.999999, under=photos / "sub dir") == []
    with pytest.raises(UsageError, match="must be more than 0"):
        index.similar(2)


def test_approximate_similar_photos_equal_exact_ones(
    index: Index, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Image.open(photos / "3.png") as image:
        image.rotate(180).rotate(180).save(photos / "3 again.png", compress_level=1)  # other bytes, same pixels
    index.add_dir(photos)
    expected = index.similar(0.99999)
    assert [Path(hit.path).name for hit in expected[0]] == ["3 again.png", "3.png"]
    monkeypatch.setattr(similar, "MAX_EXACT", 2)
    assert index.similar(0.99999) == expected


def test_index_of_an_empty_folder_has_no_hits(index: Index, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    assert index.add_dir(tmp_path / "photos").new == 0
    assert index.search("a cat") == [] and index.duplicates().groups == [] and index.status().model is None
    assert (index.folder / LOCK).exists()


def test_texts_find_matching_example_photos(tmp_path: Path) -> None:
    with Index.open(tmp_path / "index", model=blip.load("tiny")) as index:
        assert index.add_dir(Path(EXAMPLES[0]).parent).new == len(EXAMPLES)
        for text, name in (("a cat", "chelsea.jpg"), ("a cup of coffee", "coffee.jpg"), ("a rocket", "rocket.jpg")):
            assert [names(index, text, top=1), Path(index.search(text, top=1)[0].path).name] == [[name], name]


def test_folded_vectors_are_removed_from_the_database(index: Index, paint: Paint, tmp_path: Path) -> None:
    for number in range(40):
        paint(f"{number}.png", number)
    index.add_dir(tmp_path / "photos")
    with sqlite3.connect(index.folder / FILE) as db:
        assert db.execute("PRAGMA freelist_count").fetchone() == (0,)
        assert db.execute("SELECT count(*) FROM pending").fetchone() == (0,)
