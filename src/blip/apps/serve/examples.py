"""Example requests to every endpoint: as JSON for the OpenAPI description, and as programs that send a form."""

from __future__ import annotations

import json
import textwrap
from typing import Any

Fields = dict[str, Any]

PICTURE = (  # a PNG of 16 by 16 pixels
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAIElEQVR42mPU"
    "iDrBQApgYiARjGogBjA+q9AYDaWB1wAAdTAC78JE+ZgAAAAASUVORK5CYII="
)
FIELDS: dict[str, Fields] = {
    "caption": {},
    "answer": {"question": "what animal is this?"},
    "match": {"texts": ["a cat", "a dog"]},
    "embed": {"kind": "image"},
    "explain": {"text": "a cat"},
}


def as_json(endpoint: str) -> Fields:
    """A request body."""
    return {"image": PICTURE} | FIELDS[endpoint]


def programs(endpoint: str, url: str, *, with_key: bool) -> dict[str, str]:
    """The same request in curl, Python and JavaScript. url: of the server, without a slash at the end."""
    target = f"{url}/v1/{endpoint}"
    fields = [(name, item) for name, value in FIELDS[endpoint].items() for item in _items(value)]
    return {
        "curl": _curl(target, fields, with_key),
        "Python": _python(target, FIELDS[endpoint], with_key),
        "JavaScript": _javascript(target, fields, with_key),
    }


def _items(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def _curl(target: str, fields: list[tuple[str, str]], with_key: bool) -> str:
    key = ' -H "X-API-Key: KEY"' if with_key else ""
    return f"curl {target}{key} -F image=@photo.jpg" + "".join(f' -F "{name}={value}"' for name, value in fields)


def _python(target: str, fields: Fields, with_key: bool) -> str:
    options = ['files={"image": file}']
    options += [f"data={json.dumps(fields)}"] if fields else []
    options += ['headers={"X-API-Key": "KEY"}'] if with_key else []
    call = f'requests.post("{target}", {", ".join(options)})'
    return textwrap.dedent(f"""\
        import requests

        with open("photo.jpg", "rb") as file:
            response = {call}
        response.raise_for_status()
        print(response.json())""")


def _javascript(target: str, fields: list[tuple[str, str]], with_key: bool) -> str:
    key = ', headers: { "X-API-Key": "KEY" }' if with_key else ""
    appended = "\n".join(f'form.append("{name}", "{value}");' for name, value in fields)
    lines = [
        'import { openAsBlob } from "node:fs";  // in a browser: input.files[0]',
        "",
        "const form = new FormData();",
        'form.append("image", await openAsBlob("photo.jpg"), "photo.jpg");',
        *([appended] if appended else []),
        f'const response = await fetch("{target}", {{ method: "POST", body: form{key} }});',
        "if (!response.ok) throw new Error(await response.text());",
        "console.log(await response.json());",
    ]
    return "\n".join(lines)
