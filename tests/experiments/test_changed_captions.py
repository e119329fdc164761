from __future__ import annotations

from random import Random

import pytest

from experiments.tiny.changed_captions import change_caption, word_groups


def all_changes(caption: str, kind: str, others: tuple[str, ...] = ()) -> set[str]:
    changes = (change_caption(caption, Random(seed), kinds=[kind], others=others) for seed in range(300))
    return {change.text for change in changes if change is not None}


@pytest.mark.parametrize(
    ("kind", "caption", "possible", "impossible"),
    [
        ("object", "a dog on a sofa", "a cat on a sofa", "a dog on a sofa"),
        ("object", "a dog on a sofa", "an elephant on a sofa", "a elephant on a sofa"),
        ("attribute", "an orange cat", "a blue cat", "an blue cat"),
        ("number", "two cats", "five cats", "two cats"),
        ("relation", "a cat in front of a car", "a cat on top of a car", "a cat in inside of a car"),
        ("order", "a cat next to a dog", "a dog next to a cat", "a cat next to a dog"),
        ("order", "a red car by a blue house", "a blue car by a red house", "a red house by a blue car"),
    ],
)
def test_one_change_makes_a_caption_false(kind: str, caption: str, possible: str, impossible: str) -> None:
    changes = all_changes(caption, kind)
    assert possible in changes
    assert impossible not in changes


def test_replacements_are_not_words_of_other_true_captions() -> None:
    assert "a horse in a field" in all_changes("a dog in a field", "object")
    assert "a horse in a field" not in all_changes("a dog in a field", "object", others=("a horse and a dog",))


def test_words_that_are_joined_keep_their_order() -> None:
    assert all_changes("a man and a woman", "order") == set()


def test_a_caption_without_known_words_is_not_changed() -> None:
    assert change_caption("something abstract", Random(0)) is None


def test_the_same_seed_makes_the_same_change() -> None:
    assert change_caption("two dogs on a red bench", Random(3)) == change_caption("two dogs on a red bench", Random(3))


def test_no_group_repeats_a_word() -> None:
    for groups in word_groups().values():
        for words in groups.values():
            assert len(set(words)) == len(words) > 1
