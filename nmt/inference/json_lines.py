"""JSON objects in and out, one for each line, with the field names that Sockeye made known.

In: `text`, `tgt_lang`, `target_prefix`, `constraints`, `avoid`, `nbest`, and any decoding option by its
name in the configuration. Out: `translation`, `score`, and what was asked for of `translations`, `scores`,
`alignment`, `tokens`, `token_scores`, `utilities`; or `error`, of which none is passed on from the object
that came in. All other fields are.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from nmt import errors
from nmt.config import loading as config_loading
from nmt.config import schema
from nmt.inference import alignments, outcomes, requests

# Options that belong to the whole run, not to a line.
GLOBAL_OPTIONS = {"precision", "batch_tokens", "max_src_tokens"}
OPTIONS = frozenset(schema.DecodingConfig.model_fields) - GLOBAL_OPTIONS
# Fields of answers, which are never passed through: those of an earlier answer would pass for ours.
ANSWERS = frozenset(
    {
        "translation", "score", "translations", "scores", "alignment", "tokens", "token_scores",
        "utilities", "error",
    }
)  # fmt: skip
# What `nmt translate` has for all lines alike: a field of that name would be passed on, and do nothing.
ONLY_FLAGS = ("mbr", "mbr_candidates", "mbr_weights", "mbr_exact")
# Beyond it Python cannot write again what it has read.
MAX_DEPTH = 100
FIELDS = frozenset({"text", "tgt_lang", "target_prefix", "constraints", "avoid", "nbest"}) | OPTIONS


def parse_line(line: str) -> dict[str, Any]:
    """Returns the object that a line holds.

    Raises:
        errors.DataError: it holds none.
    """
    try:
        fields = json.loads(line, parse_constant=_refused, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise errors.DataError(f"is no JSON ({error}).") from error
    if _is_deep(fields):
        raise errors.DataError(f"wants objects and lists in each other {MAX_DEPTH} times at most.")
    if not isinstance(fields, dict):
        raise errors.DataError(f"wants a JSON object (given: {line.strip()[:40]}).")
    return fields


def request_of(fields: Mapping[str, Any], default: requests.Request) -> requests.Request:
    """Returns what an object asks for.

    Args:
        fields: of the object.
        default: what holds where the object says nothing; its text counts for nothing.

    Raises:
        errors.NMTError: a field has the wrong type, or an option is wrong.
    """
    for name in ONLY_FLAGS:
        if name in fields:
            flag = "--" + name.replace("_", "-")
            raise errors.DataError(f"{name}: is for all lines, not for one. Give {flag}.")
    options = {name: _option(fields[name], name) for name in fields if name in OPTIONS}
    decoding = default.decoding
    if options:
        decoding = config_loading.apply_decoding_flags(decoding, options)
    num_best = fields.get("nbest", default.num_best)
    if not isinstance(num_best, int) or isinstance(num_best, bool):
        raise errors.DataError(f"nbest: wants a whole number (given: {num_best!r}).")
    return requests.Request(
        _text(fields, "text", None),
        decoding,
        num_best=num_best,
        target_prefix=_text(fields, "target_prefix", default.target_prefix),
        constraints=_texts(fields, "constraints", default.constraints),
        avoid=_texts(fields, "avoid", default.avoid),
        tgt_lang=_text(fields, "tgt_lang", None) if "tgt_lang" in fields else default.tgt_lang,
    )


def object_of(outcome: outcomes.Outcome, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the object that answers another one.

    Args:
        outcome: the translations, or the error.
        fields: of the object that asked.
    """
    passed = {name: value for name, value in fields.items() if name not in FIELDS | ANSWERS}
    if outcome.error is not None:
        return {**passed, "error": outcome.error}
    best = outcome.translations[0]
    answer: dict[str, Any] = {"translation": best.text, "score": _number(best.score)}
    if len(outcome.translations) > 1:
        answer["translations"] = [one.text for one in outcome.translations]
        answer["scores"] = [_number(one.score) for one in outcome.translations]
    if best.utility is not None:
        answer["utilities"] = [one.utility for one in outcome.translations]
    if best.alignment is not None:
        answer["alignment"] = alignments.pharaoh(best.alignment)
    if best.token_scores is not None:
        answer["tokens"] = list(best.pieces or ())
        answer["token_scores"] = list(best.token_scores)
    return {**passed, **answer}


def _refused(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    """Returns a number, which could not be written again if it were infinite."""
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is out of range")
    return value


def _is_deep(fields: Any) -> bool:
    """Returns whether lists and objects are in each other more than `MAX_DEPTH` times."""
    level = [fields]
    for _ in range(MAX_DEPTH + 1):
        nested = [one for one in level if isinstance(one, dict | list)]
        if not nested:
            return False
        level = [
            part for one in nested for part in (one.values() if isinstance(one, dict) else one)
        ]
    return True


def _number(score: float) -> float | None:
    """Returns null for a translation that is not there: JSON knows no infinity."""
    return None if score == float("-inf") else score


def _option(value: Any, name: str) -> Any:
    """Returns a whole number as a float where the option is one: JSON makes no difference."""
    is_float = schema.DecodingConfig.model_fields[name].annotation is float
    if value is None or isinstance(value, dict | list):
        shown = "null" if value is None else "a list or an object"
        raise errors.DataError(f"{name}: wants a value (given: {shown}).")
    try:
        return float(value) if is_float and type(value) is int else value
    except OverflowError as error:
        raise errors.DataError(f"{name}: is out of range.") from error


def _text(fields: Mapping[str, Any], name: str, default: str | None) -> str:
    value = fields.get(name, default)
    if value is None and name not in fields:
        raise errors.DataError(f"{name}: missing. Every line wants it.")
    if not isinstance(value, str):
        raise errors.DataError(f"{name}: wants text in quotes (given: {value!r}).")
    return value


def _texts(fields: Mapping[str, Any], name: str, default: Sequence[str]) -> tuple[str, ...]:
    value = fields.get(name, default)
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise errors.DataError(f"{name}: wants a list of texts (given: {value!r}).")
    return tuple(value)
