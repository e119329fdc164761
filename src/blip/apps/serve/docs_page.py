"""The API as an HTML page, written from the OpenAPI description; it loads nothing, so it works without a network."""

from __future__ import annotations

from html import escape

from blip.apps.serve.components import Schema
from blip.apps.serve.examples import programs
from blip.apps.serve.openapi import build_openapi
from blip.apps.serve.settings import Settings

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h2 { margin-top: 2.5rem; border-top: 1px solid #8886; padding-top: 1rem; }
code, pre { font: 0.875rem/1.45 ui-monospace, monospace; }
h2 code { font-size: 1.15rem; font-weight: 600; }
pre { background: #8882; padding: 0.75rem; border-radius: 6px; overflow-x: auto; overflow-wrap: normal; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 0.25rem 0.75rem 0.25rem 0; border-bottom: 1px solid #8884; }
td:first-child { overflow-wrap: normal; }
"""
HEADERS = {  # nothing is loaded or executed
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Vary": "Accept",
}
INTRODUCTION = (
    "Send a JSON object or a form (<code>multipart/form-data</code>). In JSON an image is base64 or a data URL; in a "
    "form it is a file. A form carries a list by repeating the field, once per item. With a list of images, texts or "
    "questions the response is a list. Errors are <code>{&quot;error&quot;: {&quot;code&quot;, &quot;message&quot;, "
    "&quot;field&quot;}}</code>."
)


def render(settings: Settings, url: str) -> str:
    """The page. url: of the server, as the client wrote it."""
    document = build_openapi(settings)
    schemas, paths = document["components"]["schemas"], document["paths"]
    posts = {path: item["post"] for path, item in paths.items() if "post" in item}
    gets = [(path, item["get"]["summary"]) for path, item in paths.items() if "get" in item]
    title = f"{document['info']['title']} {document['info']['version']}"
    sections = [_section(path, post, schemas, url, with_key=bool(settings.key_digests)) for path, post in posts.items()]
    links = "".join(f'<li><a href="{path}"><code>{path}</code></a> {escape(text)}</li>' for path, text in gets)
    menu = " · ".join(f'<a href="#{post["operationId"]}">{post["operationId"]}</a>' for post in posts.values())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style>'
        f"<h1>{escape(title)}</h1><p>{escape(document['info']['description'])}</p><p>{INTRODUCTION}</p><p>{menu}</p>"
        f"{''.join(sections)}<h2>Other addresses</h2><ul>{links}</ul></html>\n"
    )


def _section(path: str, post: Schema, schemas: Schema, url: str, *, with_key: bool) -> str:
    endpoint = post["operationId"]
    content = post["requestBody"]["content"]
    request = _resolve(content["application/json"]["schema"], schemas)
    response = schemas[f"{endpoint.capitalize()}Record"]
    examples = "".join(
        f"<h4>{language}</h4><pre>{escape(program)}</pre>"
        for language, program in programs(endpoint, url, with_key=with_key).items()
    )
    return (
        f'<h2 id="{endpoint}"><code>POST {path}</code></h2><p>{escape(request["description"])}</p>'
        f"<details><summary>Fields of a request</summary>{_fields(request)}</details>"
        f"<details><summary>Fields of a record</summary>{_fields(response)}</details>"
        f"<details{' open' if endpoint == 'caption' else ''}><summary>Examples</summary>{examples}</details>"
    )


def _resolve(schema: Schema, schemas: Schema) -> Schema:
    resolved: Schema = schemas[schema["$ref"].rpartition("/")[2]]
    return resolved


def _fields(schema: Schema) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code><td>{escape(_type(field))}<td>{escape(_note(field))}"
        for name, field in schema["properties"].items()
    )
    return f'<div class="wide"><table><tr><th>field<th>type<th>{rows}</table></div>'


def _type(field: Schema) -> str:
    if "$ref" in field:
        return str(field["$ref"].rpartition("/")[2])
    if "enum" in field:
        return " | ".join(field["enum"])
    return f"list of {_type(field['items'])}" if field["type"] == "array" else str(field["type"])


def _note(field: Schema) -> str:
    """Range, description and default."""
    low, high = (field.get(f"{side}imum", field.get(f"exclusive{side.capitalize()}imum")) for side in ("min", "max"))
    parts = [f"{low} to {high}." if high is not None else f"At least {low}."] if low is not None else []
    return " ".join([*parts, field.get("description", "")])
