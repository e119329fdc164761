"""Photos held out for evaluation: whole photos, always the same ones, none of few."""

from __future__ import annotations

from pathlib import Path

import pytest

from blip.data.sources import SampleList
from blip.data.split import count_photos, hold_out, is_share
from blip.io.samples import ImageRef, Sample
from blip_lite.errors import ConfigError


def rows(count: int, per_photo: int = 1) -> SampleList:
    """Rows of `count` photos."""
    refs = [ImageRef(Path(f"{i}.png")) for i in range(count)]
    return SampleList([Sample(key=f"{i}-{j}", images=(refs[i],)) for j in range(per_photo) for i in range(count)])


@pytest.mark.parametrize(
    ("photos", "share", "held"),
    [(9, "auto", 0), (10, "auto", 2), (20, "auto", 4), (100, "auto", 20), (2000, "auto", 100), (9, "10%", 1)],
)
def test_a_share_of_the_photos_is_held_out(photos: int, share: str, held: int) -> None:
    train, validation = hold_out(rows(photos, per_photo=2), share)
    assert count_photos(train) == photos - held
    assert (0 if validation is None else count_photos(validation)) == held
    assert len(train) + (0 if validation is None else len(validation)) == 2 * photos


def test_rows_of_a_photo_stay_together_and_the_draw_is_always_the_same() -> None:
    train, validation = hold_out(rows(30, per_photo=3), "auto")
    assert validation is not None
    kept = {train[i].image for i in range(len(train))}
    assert kept.isdisjoint({validation[i].image for i in range(len(validation))})
    again = hold_out(rows(30, per_photo=3), "auto")[1]
    assert again is not None and [s.key for s in again.samples] == [s.key for s in validation.samples]  # type: ignore[attr-defined]


def test_photos_that_share_rows_or_ids_stay_together() -> None:
    red = ImageRef(Path("red.png"))
    pairs = SampleList([Sample(key=str(i), images=(red, ImageRef(Path(f"{i}.png")))) for i in range(20)])
    assert hold_out(pairs, "auto") == (pairs, None)
    same = [Sample(key=str(i), images=(ImageRef(Path(f"{i}.png")),), fields={"image_id": i // 2}) for i in range(20)]
    train, validation = hold_out(SampleList(same), "auto")
    assert validation is not None and len(validation) == 4
    ids = [{source[i].fields["image_id"] for i in range(len(source))} for source in (train, validation)]
    assert ids[0].isdisjoint(ids[1])


def test_shares_are_auto_and_percentages() -> None:
    assert [is_share(x) for x in ("auto", "10%", "2.5%", "photos/", "none", None, ["auto"])] == [True] * 3 + [False] * 4
    for share in ("0%", "100%", "250%"):
        with pytest.raises(ConfigError, match="must be above 0% and below 100%"):
            hold_out(rows(20), share)
