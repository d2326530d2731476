"""Payloads against the services' own documents, where these are at hand, beside the checkout."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parents[2].parent / "shared" / "specs"


@cache
def specification(name: str) -> dict[str, Any] | None:
    """The OpenAPI subset of that name, such as ``datadog_v2``; None where it is not at hand."""
    path = _FOLDER / f"{name}.subset.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def broken_rules(name: str, path: str, body: Any) -> list[str]:
    """What a POST body to this path breaks of the document; nothing where the document is not at hand."""
    document = specification(name)
    if document is None:
        return []
    return [f"{path}: {error.json_path}: {error.message}"[:500] for error in _validator(name, path).iter_errors(body)]


@cache
def _validator(name: str, path: str) -> Any:
    from openapi_schema_validator import OAS30Validator

    document = specification(name)
    assert document is not None
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return OAS30Validator({"allOf": [schema], "components": document["components"]})
