"""Arguments of the metrics, checked: a string in place of a list would be read as its letters, a dict as its keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from blip_lite.errors import UsageError

# Accepted for a caption or a reference: a text, or a row of the reference scorer's form.
Text = str | Mapping[str, Any]
Texts = Sequence[str] | Mapping[Any, str | Sequence[Text]]
References = Sequence[Sequence[str]] | Mapping[Any, Sequence[Text]]


def text_list(values: object, name: str) -> list[str]:
    """Return texts as a list. Raises UsageError for a single text, a mapping and items that are not texts."""
    items = _items(values, name)
    for i, item in enumerate(items):
        if not isinstance(item, str):
            raise UsageError(f"{name}[{i}] is {_kind(item)}; must be a text")
    return items


def require_text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{name} is {_kind(value)}; must be a text")
    return value


def require_tokens(tokens: object, name: str) -> None:
    """Raise UsageError for a text in place of its tokens."""
    if isinstance(tokens, str):
        raise UsageError(f"{name} is a text; must be a list of tokens (blip.metrics.caption.tokenize)")


def caption_lists(references: References, captions: Texts) -> tuple[list[list[str]], list[str]]:
    """Return lists of references and captions in the same order.

    Both may be lists, or dicts by id in the reference scorer's form, `{id: [text]}` or `{id: [{"caption": text}]}`,
    with one caption per id. Raises UsageError for everything else, and if ids or counts differ.
    """
    if isinstance(references, Mapping) != isinstance(captions, Mapping):
        raise UsageError("references and captions: one is a dict; both must be dicts by id, or both lists")
    if isinstance(references, Mapping) and isinstance(captions, Mapping):
        return _from_dicts(references, captions)
    answers = text_list(captions, "captions")
    lists = _items(references, "references")
    if not answers or len(answers) != len(lists):
        raise UsageError(f"{len(answers)} captions and {len(lists)} lists of references; must be one per caption")
    return [_references(texts, f"references[{i}]") for i, texts in enumerate(lists)], answers


def _from_dicts(
    references: Mapping[Any, Sequence[Text]], captions: Mapping[Any, str | Sequence[Text]]
) -> tuple[list[list[str]], list[str]]:
    missing, surplus = references.keys() - captions.keys(), captions.keys() - references.keys()
    if missing or surplus or not captions:
        examples = ", ".join(repr(name) for name in list(missing | surplus)[:1])
        raise UsageError(
            f"{len(references)} ids with references and {len(captions)} with captions, {len(missing)} without a caption"
            f" and {len(surplus)} without references{f' ({examples})' if examples else ''}; must be the same ids"
        )
    answers = []
    for name, value in captions.items():
        texts = [value] if isinstance(value, str) else _captions(value, f"captions[{name!r}]")
        if len(texts) != 1:
            raise UsageError(f"captions[{name!r}] has {len(texts)} captions; must be one")
        answers += texts
    names = {name: f"references[{name!r}]" for name in captions}
    return [_references(_captions(references[name], label), label) for name, label in names.items()], answers


def _references(values: object, name: str) -> list[str]:
    texts = text_list(values, name)
    if not texts:
        raise UsageError(f"{name} has no reference; give at least one")
    return texts


def _captions(values: object, name: str) -> list[str]:
    """Return the texts of a list of texts or of rows with a field `caption`."""
    rows = _items(values, name)
    return text_list([row.get("caption") if isinstance(row, Mapping) else row for row in rows], name)


def _items(values: object, name: str) -> list[Any]:
    if isinstance(values, Set):
        raise UsageError(f"{name} is a set, which has neither order nor repetitions; must be a list")
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise UsageError(f"{name} is {_kind(values)}; must be a list")
    return list(values)


def _kind(value: object) -> str:
    names = {str: "a text", dict: "a dict", bytes: "bytes", type(None): "None"}
    if isinstance(value, float) and value != value:
        return "nan"
    return names.get(type(value), f"of type {type(value).__name__}")
