"""How a setting is declared: default, description, unit, and why the default is what it is."""

from typing import Any, Literal

import pydantic

Precision = Literal["auto", "fp32", "bf16", "fp16", "fp64"]
InferencePrecision = Literal["auto", "fp32", "bf16", "int8", "fp16", "fp64"]


class Section(pydantic.BaseModel):
    """A block of settings: frozen, unknown keys forbidden."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def knob(default: Any, text: str, *, unit: str = "", why: str = "", **limits: Any) -> Any:
    """Returns a pydantic field that the generated reference can describe.

    Args:
        default: the one default of this setting; `...` where the user has to give it.
        text: one line: what the setting does.
        unit: what a number counts (`tokens`, `updates`, `minutes`).
        why: the reason for the default.
        **limits: pydantic's bounds (`ge`, `gt`, `le`, `lt`, `min_length`).
    """
    extra: dict[str, Any] = {"unit": unit, "why": why}
    return pydantic.Field(default, description=text, json_schema_extra=extra, **limits)
