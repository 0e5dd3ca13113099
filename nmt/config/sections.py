"""The schema as a tree: which section stands where, and what it may hold."""

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any, Literal

import pydantic
from pydantic import fields

from nmt.config import documents, families, schema

# Where the sections with settings that others can make meaningless stand.
SIDES: tuple[families.Side, ...] = ("encoder", "decoder")


@dataclasses.dataclass(frozen=True)
class Knob:
    """One setting, as the reference and the template show it.

    Attributes:
        key: its name within its section.
        text: what it does.
        unit: what a number counts, or an empty string.
        why: the reason for the default, or an empty string.
        kind: its type or its choices, in words.
        default: the default in YAML, or None where the user has to give it.
    """

    key: str
    text: str
    unit: str
    why: str
    kind: str
    default: str | None


def knobs_of(section: type[pydantic.BaseModel]) -> list[Knob]:
    """Returns the settings of a section that are no sections themselves, in schema order."""
    found = []
    for key, field in section.model_fields.items():
        if section_of(field) is not None:
            continue
        extra = field.json_schema_extra
        notes: dict[str, Any] = extra if isinstance(extra, dict) else {}
        default = None
        if not field.is_required():
            value = field.get_default(call_default_factory=True)
            default = documents.render_value(list(value) if isinstance(value, tuple) else value)
        found.append(
            Knob(
                key,
                field.description or "",
                str(notes.get("unit", "")),
                str(notes.get("why", "")),
                describe_type(field.annotation) + _describe_limits(field),
                default,
            )
        )
    return found


def section_of(field: fields.FieldInfo) -> type[pydantic.BaseModel] | None:
    """Returns the section that a field holds (also in a list, also optional), or None."""
    return next(_models_in(field.annotation), None)


def _models_in(annotation: Any) -> Iterator[type[pydantic.BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


def schema_at(path: documents.KeyPath, data: Any) -> type[pydantic.BaseModel] | None:
    """Returns the schema of the section that stands at a path.

    Args:
        path: keys from the root; list entries by number.
        data: the given values, which name the families of encoder and decoder.

    Returns:
        None where no section can stand there.
    """
    section: type[pydantic.BaseModel] = schema.Config
    value = data
    for key in path:
        value = _entry(value, key)
        if isinstance(key, int):
            continue
        field = section.model_fields.get(key)
        inner = section_of(field) if field is not None else None
        if inner is None:
            return None
        section = inner
        if inner is families.FamilyOptions:
            name = value.get("type", "transformer") if isinstance(value, dict) else "transformer"
            side: families.Side = "encoder" if key == "encoder" else "decoder"
            try:
                section = families.options_schema(str(name), side)
            except ValueError:
                return None
    return section


def sections_with_rules(config: schema.Config) -> list[tuple[documents.KeyPath, Any]]:
    """Returns each section that has an `inapplicable` method, with its path."""
    return [
        (("data", "noise"), config.data.noise),
        (("tokenizer",), config.tokenizer),
        (("model", "encoder"), config.model.encoder),
        (("model", "decoder"), config.model.decoder),
        (("training",), config.training),
        (("decoding",), config.decoding),
    ]


def describe_type(annotation: Any) -> str:
    """Returns a type in the words of the reference: `int or null`, `adam, adamw`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return describe_type(arguments[0])
    if origin is Literal:
        return ", ".join(str(choice) for choice in arguments)
    if origin is tuple:
        inner = [describe_type(argument) for argument in arguments if argument is not Ellipsis]
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return f"list of {inner[0]}"
        return f"[{', '.join(inner)}]"
    if origin is dict:
        return f"{describe_type(arguments[0])} to {describe_type(arguments[1])}"
    if arguments:
        return " or ".join(describe_type(argument) for argument in arguments)
    names = {int: "int", float: "float", str: "text", bool: "true, false", type(None): "null"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _describe_limits(field: fields.FieldInfo) -> str:
    """Returns the bounds of a number: `, at least 1`."""
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    return "".join(
        f", {words[name]} {'2**63' if limit == 2**63 else limit}"
        for part in field.metadata
        for name in words
        if (limit := getattr(part, name, None)) is not None
    )


def _entry(value: Any, key: documents.Key) -> Any:
    if isinstance(value, dict):
        return value.get(key)
    if isinstance(value, list | tuple) and isinstance(key, int) and key < len(value):
        return value[key]
    return None
