"""The documentation site: it builds strictly, its commands and snippets run and print the stated output."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from blip.cli import VERBS, main
from blip.cli.export import LAYOUTS
from blip.cli.run import verb_command
from experiments.quotes.marks import without_marked

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if "decisions" not in p.parts)
FENCE = re.compile(r"^( *)```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
PRINTS = "prints"
# reasons why a block is not run here, shown to readers as its title
NOT_RUN = {
    "installs",
    "needs a download",
    "needs a GPU",
    "needs a running server",
    "needs several machines",
    "needs a container engine",
    "needs npm",
    "runs until stopped",
    "for example",
    "the original",
    "LAVIS",
    "Transformers",
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    title: str | None
    code: str


def blocks(page: Path) -> list[Block]:
    return [
        Block(language, title or None, re.sub(rf"^{indent}", "", code, flags=re.MULTILINE))
        for indent, language, title, code in FENCE.findall(page.read_text(encoding="utf-8"))
    ]


def page_id(page: Path) -> str:
    return page.name


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder of the pages: a folder of photos, two of them beside it, a few captions and texts."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in (ROOT / "examples").glob("*.[pj][np]g"):
        shutil.copy(path, photos)
    for name in ("chelsea.png", "coffee.png"):
        shutil.copy(photos / name, tmp_path)
    (tmp_path / "texts.txt").write_text("a cat\na cup\n")
    rows = ('{"image": "photos/chelsea.png", "caption": "a cat"}', '{"image": "photos/coffee.png", "caption": "a cup"}')
    (tmp_path / "captions.jsonl").write_text("\n".join(rows) + "\n")
    monkeypatch.chdir(tmp_path)
    for name, folder in (("BLIP_HOME", "home"), ("BLIP_CACHE", "cache"), ("HF_HOME", "hub")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setenv("BLIP_OFFLINE", "1")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for name in ("BLIP_MODEL", "BLIP_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_of_a_page_run_and_print_its_outputs(page: Path, desk: Path, renew: bool) -> None:
    printed = ""
    for block in blocks(page):
        if block.title == PRINTS and renew:
            page.write_text(renewed(page.read_text("utf-8"), block.code, printed), "utf-8")
        elif block.title == PRINTS:
            assert printed.rstrip() == block.code.rstrip(), "run 'make renew' if the model is new"
        elif block.title is None and block.language == "bash":
            printed = run_bash(block.code)
        elif block.title is None and block.language == "python":
            printed = run_python(block.code)


def renewed(page: str, old: str, printed: str) -> str:
    """The page with the content of one block of outputs replaced."""
    for match in FENCE.finditer(page):
        indent, _, title, code = match.groups()
        if title == PRINTS and re.sub(rf"^{indent}", "", code, flags=re.MULTILINE) == old:
            new = "".join(f"{indent}{line}\n" for line in printed.rstrip().splitlines())
            return page[: match.start(4)] + new + page[match.end(4) :]
    return page


def run_bash(code: str) -> str:
    """Run plain `blip` commands in this process, which is faster, and all others in a shell."""
    lines = [shlex.split(line, comments=True) for line in code.splitlines()] if "<<" not in code else [["shell"]]
    if any(line and (line[0] != "blip" or {"|", ">", "||", "&&"} & set(line)) for line in lines):
        done = subprocess.run(["bash", "-euc", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout
    output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with contextlib.redirect_stdout(output):
        for line in filter(None, lines):
            assert main(line[1:]) == 0, line
    return output.buffer.getvalue().decode("utf-8")  # type: ignore[attr-defined]


def run_python(code: str) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, "<page>", "exec"), {"__name__": "page"})
    return output.getvalue()


def test_outputs_of_a_page_are_renewed_in_place() -> None:
    page = 'a\n\n```bash\nblip\n```\n\n  ```text title="prints"\n  old\n  ```\n\n```text title="prints"\nkept\n```\n'
    assert renewed(page, "old\n", "one\ntwo\n") == page.replace("  old\n", "  one\n  two\n")
    assert renewed(page, "absent\n", "new\n") == page


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=page_id)
def test_blocks_that_are_not_run_have_a_reason_and_valid_names(page: Path) -> None:
    for block in blocks(page):
        assert block.title is None or block.title == PRINTS or block.title in NOT_RUN, block
        if block.language == "python":
            compile(block.code, str(page), "exec")
        elif block.language == "bash":
            for verb, flags in commands(block.code):
                assert flags <= known_flags(verb), f"{page.name}: blip {verb}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_within_sentences_exist(page: Path) -> None:
    for command in re.findall(r"`(?:blip|python -m blip) ([^`]+)`", page.read_text(encoding="utf-8")):
        for verb, flags in commands(f"blip {command}"):
            assert verb == "--version" or verb == "VERB" or flags <= known_flags(verb), command


@pytest.mark.parametrize("verb", VERBS)
def test_command_pages_have_two_examples(verb: str) -> None:
    page = DOCS / "commands" / f"{'index-verb' if verb == 'index' else verb}.md"
    examples = [block for block in blocks(page) if block.language == "bash"]
    assert len(examples) >= 2 and f"<!-- options of {verb} -->" in page.read_text("utf-8")


def test_the_layer_diagram_is_that_of_the_import_contract() -> None:
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("_generate", DOCS / "_generate.py")
    assert spec is not None and spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.DIAGRAM.read_text("utf-8") == generate.diagram(), "run 'make generated'"


def test_the_walks_name_functions_that_exist_and_the_first_is_short() -> None:
    page = (DOCS / "architecture.md").read_text("utf-8")
    walks = [re.findall(r"^\| \d+\. .* \| `(\S+)` \| `(\w+)` \|$", part, re.M) for part in page.split("## ")]
    assert 1 <= len(walks[1]) <= 14 and len(walks[2]) > 0
    for path, name in (*walks[1], *walks[2]):
        assert f"def {name}(" in (ROOT / path).read_text("utf-8"), path
    for path in re.findall(r"`((?:src|lite|docs)/[^`]*)`", page):
        assert "NAME" in path or (ROOT / path).exists(), path


def test_the_readme_is_short() -> None:
    assert len(without_marked((ROOT / "README.md").read_text("utf-8")).split()) <= 900


def test_the_first_page_lists_the_extras_there_are() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    table = (DOCS / "index.md").read_text("utf-8").partition("| extra |")[2].partition("```")[0]
    listed = {name for row in table.splitlines()[1:] for name in re.findall("`([a-z]+)`", row.partition(" | ")[0])}
    assert listed == set(project["optional-dependencies"]) - {"dev", "all"}


def test_the_export_page_lists_the_layouts_there_are() -> None:
    table = (DOCS / "tasks" / "export.md").read_text("utf-8").partition("\n\n```")[0]
    assert re.findall(r"^\| `([a-z]+)`", table, re.MULTILINE) == list(LAYOUTS)


def commands(code: str) -> Iterator[tuple[str, set[str]]]:
    """Verb and flags of every `blip VERB ...` of some shell code."""
    for line in re.sub(r"\\\n", " ", code).splitlines():
        words = shlex.split(line.replace("...", ""), comments=True)
        starts = [i for i, word in enumerate(words) if word == "blip" and (i == 0 or words[i - 1] == "-m")]
        if starts and words[starts[0] + 1 :]:
            verb, *rest = words[starts[0] + 1 :]
            yield verb, {word.partition("=")[0] for word in rest if re.match("--?[a-z]", word)}


def known_flags(verb: str) -> set[str]:
    assert verb in VERBS, f"no verb '{verb}'"
    return {flag for flags in flags_of(verb) for flag in flags} | {"--help"}


def flags_of(verb: str) -> list[list[str]]:
    """Names of each parameter of a verb and its subcommands."""
    command: Any = verb_command(verb)
    every = [command, *getattr(command, "commands", {}).values()]
    return [[*p.opts, *p.secondary_opts] for c in every for p in c.params]


def test_the_site_builds_strictly_and_asks_nothing_of_the_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", str(ROOT / "mkdocs.yml")]
    done = subprocess.run([*build, "-d", str(tmp_path / "site")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for verb in VERBS:
        name = "index-verb" if verb == "index" else verb
        page = (tmp_path / "site" / "commands" / f"{name}.html").read_text("utf-8")
        shown = {flag.replace("[no-]", "") for flag in re.findall(r"--?(?:\[no-\])?[a-z0-9-]+", page)}
        missing = [
            flags
            for flags in flags_of(verb)
            if flags[0].startswith("-") and flags != ["--debug"] and shown.isdisjoint(flags)
        ]
        assert not missing, f"{verb}: {missing}"
    assert "retrieval-flickr-large" in (tmp_path / "site" / "checkpoints.html").read_text("utf-8")
    api = (tmp_path / "site" / "api.html").read_text("utf-8")
    for call in re.findall(r"^\| `([a-z_]+)\(", (DOCS / "api.md").read_text("utf-8"), re.MULTILINE):
        assert f'id="blip_lite.model.Model.{call}"' in api, call
    assert all(f">{name}<" in api for name in ("alternatives", "logprobs"))  # a result shows its fields
    loaded = re.compile("<(?:script|img|iframe)[^>]*src=.https?:|<link[^>]*(?:stylesheet|preconnect)[^>]*href=.https?:")
    for path in (tmp_path / "site").rglob("*.html"):
        assert not loaded.search(path.read_text("utf-8")), path.name
