"""Check that no public function takes or returns `Any` without a reason: a comment `# Any: REASON` in its signature.

`python checks/any_types.py [PATH...]`, by default all of src and lite/src. `Any` alone and in unions is reported, not
inside containers such as `dict[str, Any]` (a record). Private functions, classes and parameters are not checked.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
REASON = "# Any: "


def main(paths: list[str]) -> int:
    files = sorted(f for path in paths or ["src", "lite/src"] for f in Path(path).rglob("*.py"))
    problems = [problem for file in files for problem in check(file)]
    for problem in problems:
        print(problem)
    print(f"{len(problems)} public signature{'' if len(problems) == 1 else 's'} with unexplained Any", file=sys.stderr)
    return 1 if problems else 0


def check(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for node in _public(ast.parse(text).body):
        end = node.body[0].lineno
        signature = lines[node.lineno - 1 : end]
        if not any(REASON in line for line in signature):
            arguments = [
                *node.args.posonlyargs,
                *node.args.args,
                *node.args.kwonlyargs,
                node.args.vararg,
                node.args.kwarg,
            ]
            names = [a.arg for a in arguments if a is not None and _is_any(a.annotation) and not a.arg.startswith("_")]
            if _is_any(node.returns):
                names.append("return")
            if names:
                yield f"{path}:{node.lineno}: {node.name}: Any in {', '.join(names)}"


def _public(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _public(node.body)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node


def _is_any(annotation: ast.expr | None) -> bool:
    if isinstance(annotation, ast.BinOp):
        return _is_any(annotation.left) or _is_any(annotation.right)
    return isinstance(annotation, ast.Name) and annotation.id == "Any"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
