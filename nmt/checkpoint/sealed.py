"""JSON files that carry a checksum of themselves, so that one altered digit is found."""

import hashlib
import json
from typing import Any

FORMAT = "format"
SEAL = "seal"


def render(content: dict[str, Any], version: int) -> str:
    """Returns `content` as JSON text with its seal: the same object, whatever is in it, comes back.

    Args:
        content: dicts with string keys, lists, strings, integers of any size, floats (also NaN
            and infinities), booleans and None. Nothing else, as JSON would change it silently.
        version: the number of the file's format.

    Returns:
        JSON, indented, ending in a line feed.

    Raises:
        TypeError: something else is in it.
    """
    _check(content, "content")
    content = {FORMAT: version, **content}
    return json.dumps({**content, SEAL: _digest(content)}, indent=1) + "\n"


def parse(data: bytes, version: int) -> dict[str, Any]:
    """Returns the content of a sealed file.

    Args:
        data: the bytes of the file.
        version: the number of the only format that is understood.

    Returns:
        What was given to `render`.

    Raises:
        ValueError: the file is torn, altered or of another format; says in what way.
    """
    try:
        content = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"torn or altered, no longer JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError("altered, no longer a JSON object")
    if content.get(FORMAT) != version:
        raise ValueError(
            f"unknown format (given: {content.get(FORMAT)!r}; this nmt reads {version}), so "
            "written by another version of nmt, or altered"
        )
    seal = content.pop(SEAL, None)
    if seal != _digest(content):
        raise ValueError("altered, it does not match its own checksum")
    del content[FORMAT]
    return content


def _digest(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _check(value: object, place: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{place}: the key {key!r} is no string")
            _check(item, f"{place}.{key}")
    elif isinstance(value, list):
        for position, item in enumerate(value):
            _check(item, f"{place}[{position}]")
    elif value is not None and type(value) not in (str, int, float, bool):
        raise TypeError(f"{place}: a {type(value).__name__} would not come back from JSON")
