"""The service's OpenAPI description, and an HTML page of it without scripts."""

import html
import json
import types
import typing
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from ..inference.api import Bang, Generation
from ..options import DESCRIBED
from .requests import MULTIPLIERS, PREFIX, SWITCHES, TEXTS, Limits

EXAMPLE = {TEXTS: ["A header-only dbus-binding leveraging C++-11.", "Fast estimators for survival analysis."], "mode": "nar"}

_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_STATUSES = {
    "400": "no JSON, an unknown argument, an option that the mode lacks, or a text that is not a string",
    "403": "a foreign Host or Origin header, if the service is bound to this machine only",
    "408": "the body did not come in time",
    "413": "a text longer than the model takes, too many texts, or a body over the limit",
    "415": "a Content-Type other than application/json",
    "429": "too many requests at once; try again after the seconds of Retry-After",
    "503": "the service is not ready",
}


def describe(model: Bang, version: str, limits: Limits) -> dict[str, Any]:
    """The OpenAPI 3.1 description of a service."""
    generation = {
        "type": "object",
        "properties": {field.name: _schema(hint) for field, hint in _hints(Generation)},
        "required": [field.name for field in fields(Generation)],
    }
    ok = {"oneOf": [_reference("Generation"), {"type": "array", "items": _reference("Generation")}]}
    answers = {"200": {"description": "a generation; for a list of texts a list, in order", "content": _json(ok)}}
    answers |= {
        status: {"description": text, "content": _json(_reference("Error"))}
        for status, text in _STATUSES.items()
        if status != "503"
    }
    body = {"required": True, "content": {"application/json": {"schema": _reference("Request"), "example": EXAMPLE}}}
    health = {"200": {"description": "ready"}, "503": {"description": _STATUSES["503"]}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "bang", "version": version, "description": f"A model with the modes {', '.join(model.modes)}."},
        "paths": {
            "/generate": {"post": {"summary": "Generates a text for each text", "requestBody": body, "responses": answers}},
            "/health": {"get": {"summary": "Whether the service is ready, and its modes", "responses": health}},
            "/metrics": {
                "get": {"summary": "Counters in Prometheus' text format", "responses": {"200": {"description": "text"}}}
            },
        },
        "components": {"schemas": {"Request": _request(model, limits), "Generation": generation, "Error": _ERROR}},
    }


_ERROR = {"type": "object", "properties": {"error": {"type": "string", "description": "one line"}}, "required": ["error"]}


def _request(model: Bang, limits: Limits) -> dict[str, Any]:
    texts = {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "maxItems": limits.texts}]}
    properties: dict[str, Any] = {
        TEXTS: {**texts, "description": "raw text: one, or several in a list"},
        PREFIX: {**texts, "default": "", "description": "what every text begins with, or a list with one for each; not in NAR"},
    }
    for name, (choices, default, text) in SWITCHES.items():
        properties[name] = {"enum": list(choices), "default": default, "description": text}
    for name, option in DESCRIBED.items():
        described = {**_schema(option.type), "default": getattr(model.defaults, name), "description": option.metadata["help"]}
        if "limits" in option.metadata and option.type in (int, float):
            described["minimum"], described["maximum"] = option.metadata["limits"]
        properties[name] = described
    properties["mode"]["enum"] = list(model.modes)
    for name in MULTIPLIERS:
        properties[name]["maximum"] = limits.hypotheses
    return {"type": "object", "properties": properties, "required": [TEXTS], "additionalProperties": False}


def _hints(of: type):
    hints = typing.get_type_hints(of)
    return [(field, hints[field.name]) for field in fields(of)]


def _schema(hint: Any) -> dict[str, Any]:
    """The JSON schema of a type."""
    if hint in _TYPES:
        return {"type": _TYPES[hint]}
    if isinstance(hint, type) and is_dataclass(hint):
        return _reference(hint.__name__)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return {"type": [_TYPES[argument] for argument in arguments]}
    assert origin in (list, tuple, Sequence), hint
    return {"type": "array", "items": _schema(arguments[0])}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


_STYLE = """body {font: 16px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em}
td, th {text-align: left; vertical-align: top; padding: .3em .8em .3em 0; border-bottom: 1px solid #ddd}
pre {background: #f4f4f4; padding: .8em; overflow-x: auto}"""


def page(description: dict[str, Any], address: str) -> str:
    """The description for people, as HTML.

    Args:
        address: the service's URL, for the example.
    """
    schemas = description["components"]["schemas"]
    call = f"curl --json {_quoted(json.dumps(EXAMPLE))} {address}/generate"
    operations = [
        (f"{method.upper()} {path}", operation["summary"])
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]
    arguments = [
        (name, " or ".join(map(_type_name, schema.get("oneOf", [schema]))), json.dumps(schema.get("default", "needed")),
         schema["description"])
        for name, schema in schemas["Request"]["properties"].items()
    ]  # fmt: skip
    answer = [(name, _type_name(schema)) for name, schema in schemas["Generation"]["properties"].items()]
    answers = description["paths"]["/generate"]["post"]["responses"]
    return "\n".join(
        [
            f"<!doctype html><html lang=en><meta charset=utf-8><title>bang</title><style>{_STYLE}</style><h1>bang</h1>",
            f'<p>{html.escape(description["info"]["description"])} <a href="openapi.json">openapi.json</a></p>',
            _table(("request", ""), operations),
            f"<h2>POST /generate</h2><pre>{html.escape(call)}</pre>",
            _table(("argument", "type", "default", ""), arguments),
            "<h2>The answer for each text</h2>",
            _table(("name", "type"), answer),
            "<h2>Status</h2>",
            _table(("status", ""), [(status, answer["description"]) for status, answer in answers.items()]),
            "</html>",
        ]
    )


def _type_name(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(map(json.dumps, schema["enum"]))
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if schema["type"] == "array":
        return f"list of {_type_name(schema['items'])}"
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return " or ".join(kinds)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + row(head, "th") + "".join(row(cells, "td") for cells in rows) + "</table>"


def _quoted(text: str) -> str:
    """For a shell."""
    return "'" + text.replace("'", "'\\''") + "'"
