"""Check the wording of code and documentation against `words.toml`: plain technical English.

`python checks/words.py [PATH...]` checks all tracked code, Markdown and pages, or those below the paths. A line with
the comment `words: allow` is skipped (quoted text, data), and so are outputs of models and commands in Markdown.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
ALLOW = "words: allow"
OUTPUTS = re.compile(r'<!-- quote .*?<!-- /quote -->|^ *```text title="prints"$.*?^ *```$', re.DOTALL | re.MULTILINE)
MARKUP = (".md", ".js", ".html")
SKIPPED = ("CHANGELOG.md",)  # keeps the wording of its time
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
DATA = ("tests/", "experiments/", "benchmarks/")  # their string literals are data, not messages


@dataclass(frozen=True)
class Rule:
    pattern: re.Pattern[str]
    better: str


@dataclass(frozen=True)
class Rules:
    prose: list[Rule]
    opening: list[Rule]
    function_opening: list[Rule]
    names: dict[str, str]


@dataclass(frozen=True)
class Problem:
    path: str
    line: int
    text: str
    better: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: '{self.text}'; better: {self.better}"


def main(paths: list[str]) -> int:
    config = tomllib.loads((ROOT / "checks/words.toml").read_text(encoding="utf-8"))
    rules = Rules(
        prose=[Rule(re.compile(pattern, re.IGNORECASE), better) for pattern, better in config["prose"].items()],
        opening=[Rule(re.compile(pattern), better) for pattern, better in config["opening"].items()],
        function_opening=[Rule(re.compile(p), better) for p, better in config["function_opening"].items()],
        names=config["names"],
    )
    problems = [p for path in _files(paths) for p in _check(path, rules)]
    for problem in problems:
        print(problem)
    if len(problems) > 20:
        counts = Counter(Path(p.path).parent.as_posix() for p in problems)
        print("\n".join(f"{count:5} {folder}" for folder, count in sorted(counts.items())))
    print(f"{len(problems)} problem{'' if len(problems) == 1 else 's'} of wording", file=sys.stderr)
    return 1 if problems else 0


def _files(paths: list[str]) -> list[str]:
    """Tracked files, below `paths` if there are any."""
    command = ["git", "ls-files", "--", *paths]
    tracked = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return [p for p in tracked if p.endswith((".py", *MARKUP)) and p not in SKIPPED and (ROOT / p).is_file()]


def _check(path: str, rules: Rules) -> Iterator[Problem]:
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(MARKUP):
        text = OUTPUTS.sub(_blank, text)
    lines = text.splitlines()
    problems = _python(path, text, rules) if path.endswith(".py") else _prose(path, 1, text, rules)
    for problem in sorted(set(problems), key=lambda problem: problem.line):
        if ALLOW not in lines[problem.line - 1]:
            yield problem


def _blank(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")


def _python(path: str, text: str, rules: Rules) -> Iterator[Problem]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield from _prose(path, token.start[0], token.string, rules)
    tree = ast.parse(text)
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node):
            constant = node.body[0].value  # type: ignore[attr-defined]
            docstrings.add(constant)
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            opening = rules.opening + (rules.function_opening if is_function else [])
            yield from _opening(path, constant.lineno, constant.value, opening)
            yield from _prose(path, constant.lineno, constant.value, rules)
        if isinstance(node, ast.keyword) and node.arg == "help" and isinstance(node.value, ast.Constant):
            yield from _opening(path, node.value.lineno, str(node.value.value), rules.opening)
        for name, line in _defined(node):
            yield from _name(path, line, name, rules)
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield from _prose(path, line, name.replace("_", " "), rules)
    if not path.startswith(DATA):
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
                yield from _prose(path, node.lineno, node.value, rules)


def _defined(node: ast.AST) -> Iterator[tuple[str, int]]:
    """Names that a node declares: functions, classes, parameters, variables, attributes."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name, node.lineno
    elif isinstance(node, ast.arg):
        yield node.arg, node.lineno
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id, node.lineno
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        yield node.attr, node.lineno


def _prose(path: str, line: int, text: str, rules: Rules) -> Iterator[Problem]:
    for rule in rules.prose:
        for match in rule.pattern.finditer(text):
            yield Problem(path, line + text.count("\n", 0, match.start()), match[0], rule.better)


def _opening(path: str, line: int, text: str, rules: list[Rule]) -> Iterator[Problem]:
    for rule in rules:
        if match := rule.pattern.match(text):
            yield Problem(path, line, f"{match[0]} ...", rule.better)


def _name(path: str, line: int, name: str, rules: Rules) -> Iterator[Problem]:
    if (better := rules.names.get(name.strip("_"))) is not None:
        yield Problem(path, line, name, better)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
