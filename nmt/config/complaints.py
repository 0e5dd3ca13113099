"""What pydantic finds wrong, in our words and with the user's places."""

import re
from typing import Any

import pydantic
from pydantic_core import ErrorDetails

from nmt import errors
from nmt.config import corpora, documents, families, given, schema, sections

MAX_LINES = 5

# A validator that means one key of its section begins its text with it: `schedule: cosine ends ...`.
_KEYED = re.compile(r"(?P<key>[a-z_]+(?:\.[a-z_]+)*): (?P<text>.*)", re.DOTALL)

_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "model_type": "a section of keys",
    "model_attributes_type": "a section of keys",
    "dict_type": "a section of keys",
}
_LIMITS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def explain(error: pydantic.ValidationError, values: given.Given) -> str:
    """Returns what is wrong, one line per mistake, unknown keys first, at most `MAX_LINES`.

    Args:
        error: what validation raised.
        values: what the user gave.
    """
    details = _flatten(error, ())
    # Of a list whose entries are wrong pydantic also says that it lacks them.
    inner = {path[:place] for path, _ in details for place in range(len(path))}
    details = [
        (path, detail)
        for path, detail in details
        if detail["type"] != "too_short" or path not in inner
    ]
    # An unknown key is often the cause of a missing one.
    details.sort(key=lambda detail: detail[1]["type"] != "extra_forbidden")
    found = [_explain(path, detail, values) for path, detail in details]
    # Two keys can be wrong in one way, as both sides of one bad anchor; one line is enough.
    lines = list(dict.fromkeys(found))
    if len(lines) > MAX_LINES:
        lines[MAX_LINES - 1] += f" (And {len(lines) - MAX_LINES} more mistakes.)"
    return "\n".join(lines[:MAX_LINES])


def wants(detail: ErrorDetails) -> str | None:
    """Returns `wants ... (given: ...).` for a value of a wrong type or size, else None."""
    kind, context = detail["type"], detail.get("ctx", {})
    shown = documents.shown(detail["input"])
    if kind in _TYPES:
        quote = " Put it in quotes." if kind == "string_type" and _is_scalar(detail) else ""
        return f"wants {_TYPES[kind]} (given: {shown}).{quote}"
    if kind in _LIMITS:
        words, name = _LIMITS[kind]
        limit = context[name]
        limit_text = f"{limit:g}" if isinstance(limit, float) else str(limit)
        return f"wants {words} {limit_text} (given: {shown})."
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", str(context["expected"]))
        hint = errors.did_you_mean(str(detail["input"]), choices)
        return f"wants one of {', '.join(choices)} (given: {shown}).{hint}"
    if kind == "too_short":
        return f"wants at least {_entries(context['min_length'])} (given: {shown})."
    if kind == "too_long":
        return f"wants at most {_entries(context['max_length'])} (given: {shown})."
    if kind == "string_too_short":
        return "may not be empty."
    return None


def unknown_key(name: str, section: type[pydantic.BaseModel] | None) -> str:
    """Returns `unknown key. Did you mean ...? Known: ...` for a key of a section.

    Args:
        name: the key.
        section: the schema of the section, if it is known.
    """
    if section is None:
        return "unknown key."
    known = list(section.model_fields)
    hint = errors.did_you_mean(name, known)
    if not hint:
        elsewhere = _find(name, section)
        hint = f" Did you mean '{elsewhere}'?" if elsewhere else ""
    family = ""
    if issubclass(section, families.FamilyOptions):
        name_of_family = section.model_fields["type"].default
        family = f" for type {name_of_family}" if isinstance(name_of_family, str) else ""
    return f"unknown key{family}.{hint} Known: {', '.join(known)}."


def keyed(text: str, section: type[pydantic.BaseModel] | None) -> tuple[documents.KeyPath, str]:
    """Splits `schedule: cosine ends ...` into the key's path within its section and the rest.

    Returns:
        an empty path and the whole text, where it begins with no key of the section.
    """
    match = _KEYED.match(text)
    if match is not None and section is not None:
        path = tuple(match["key"].split("."))
        if path[0] in section.model_fields:
            return path, match["text"]
    return (), text


def sentence(text: str) -> str:
    """Returns the text with a full stop."""
    return text if text.endswith((".", "?")) else f"{text}."


def _flatten(
    error: pydantic.ValidationError, prefix: documents.KeyPath
) -> list[tuple[documents.KeyPath, ErrorDetails]]:
    """Returns every single mistake with its path, those of the families' options included."""
    found: list[tuple[documents.KeyPath, ErrorDetails]] = []
    for detail in error.errors(include_url=False):
        loc = (key for key in detail["loc"] if key not in {corpora.ONE, corpora.LIST})
        path = (*prefix, *loc)
        inner = detail.get("ctx", {}).get("error")
        if isinstance(inner, pydantic.ValidationError):
            found += _flatten(inner, path)
        else:
            found.append((path, detail))
    return found


def _explain(path: documents.KeyPath, detail: ErrorDetails, values: given.Given) -> str:
    kind = detail["type"]
    if kind == "extra_forbidden":
        section = sections.schema_at(path[:-1], values.data)
        return f"{values.place(path)}: {unknown_key(str(path[-1]), section)}"
    if kind == "missing":
        if isinstance(path[-1], int):
            shown = documents.shown(detail["input"])
            return f"{values.place(path[:-1])}: wants {_entries(path[-1] + 1)} (given: {shown})."
        section = sections.schema_at(path[:-1], values.data)
        text = section.model_fields[path[-1]].description if section is not None else ""
        return f"{values.place(path)}: missing; it has no default ({text}). Add it."
    if kind == "value_error":
        key, text = keyed(
            str(detail.get("ctx", {}).get("error", detail["msg"])),
            sections.schema_at(path, values.data) or _section_class(path),
        )
        return f"{values.place((*path, *key))}: {sentence(text)}"
    return f"{values.place(path)}: {wants(detail) or sentence(detail['msg'])}"


def _section_class(path: documents.KeyPath) -> type[pydantic.BaseModel] | None:
    """Returns the base schema of encoder and decoder, for a type that is not known."""
    is_side = len(path) == 2 and path[0] == "model" and path[1] in sections.SIDES
    return families.FamilyOptions if is_side else None


def _entries(number: int) -> str:
    return f"{number} entry" if number == 1 else f"{number} entries"


def _is_scalar(detail: ErrorDetails) -> bool:
    value: Any = detail["input"]
    return isinstance(value, bool | int | float)


def _find(name: str, but: type[pydantic.BaseModel]) -> str | None:
    """Returns the dotted key of this name, or one like it, in another of the fixed sections."""
    for top, field in schema.Config.model_fields.items():
        section = sections.section_of(field)
        if section is not None and section is not but and name in section.model_fields:
            return f"{top}.{name}"
    return name if name in schema.Config.model_fields and but is not schema.Config else None
