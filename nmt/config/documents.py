"""YAML text to plain data with line numbers, and back.

The rules of YAML 1.2 hold for plain scalars: `no`, `yes`, `on` and `off` are text (`no` is a
language), and `1e-3` is a number. Tags are refused, anchors are not.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from nmt import errors

Key = str | int
KeyPath = tuple[Key, ...]

# Far more than any configuration holds; it keeps anchors that repeat each other from filling memory.
MAX_NODES = 100_000

_PREFIX = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*\Z")
_FLOAT = re.compile(
    r"(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan)\Z"
)
_RESOLVERS = [
    (_PREFIX + "bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")),
    (_PREFIX + "null", re.compile(r"(?:~|null|Null|NULL|)\Z")),
    (_PREFIX + "int", _INT),
    (_PREFIX + "float", _FLOAT),
]


@dataclasses.dataclass(frozen=True)
class Document:
    """A parsed configuration.

    Attributes:
        data: dictionaries, lists and scalars.
        lines: where each key and each list entry stands, counted from 1; the root is `()`.
    """

    data: dict[str, Any]
    lines: dict[KeyPath, int]


class _Loader(yaml.SafeLoader):
    """Composes nodes; knows only the types of `_RESOLVERS`."""

    # The key None holds the resolvers that are tried whatever the first character is.
    yaml_implicit_resolvers = {None: _RESOLVERS}  # noqa: RUF012 (so PyYAML declares it)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise yaml.MarkedYAMLError(
                problem=f"tags are not allowed (given: {tag})", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Quotes what either these rules or those of YAML 1.1 would not read back as text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (so PyYAML declares it)
        **yaml.SafeDumper.yaml_implicit_resolvers,
        None: _RESOLVERS,
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_list(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.Node:
    is_flat = not any(isinstance(value, list | dict) for value in values)
    return dumper.represent_sequence(_PREFIX + "seq", values, flow_style=is_flat)


_Dumper.add_representer(list, _represent_list)


def parse(text: str, name: str) -> Document:
    """Parses a configuration.

    Args:
        text: YAML.
        name: what messages call the file.

    Raises:
        errors.ConfigError: it is no YAML, no mapping, has a key twice, or uses tags.
    """

    def place(line: int) -> str:
        return f"{name}:{line}"

    node = _compose(text, place)
    if node is None:
        raise errors.ConfigError(f"{name}: is empty. A configuration is a YAML mapping.")
    if not isinstance(node, yaml.MappingNode):
        raise errors.ConfigError(
            f"{place(_line(node))}: is no mapping. A configuration is lines of `key: value`."
        )
    builder = _Builder(place)
    data = builder.build(node, ())
    builder.lines[()] = _line(node)
    return Document(data, builder.lines)


def parse_value(text: str, name: str) -> Any:
    """Parses the value of an override: a scalar, or a list or mapping in brackets.

    Args:
        text: YAML.
        name: what messages call it.

    Raises:
        errors.ConfigError: it is no YAML.
    """

    def place(line: int) -> str:
        return name

    node = _compose(text, place)
    return None if node is None else _Builder(place).build(node, ())


def render(data: Any) -> str:
    """Returns the YAML of plain data, keys in their order, scalar lists in one line."""
    text: str = yaml.dump(
        data,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=2**20,
    )
    return text


def render_value(value: Any) -> str:
    """Returns the YAML of one value on one line."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, allow_unicode=True, default_flow_style=True, width=2**20
    )
    return text.removesuffix("\n").removesuffix("\n...")


def shown(value: Any) -> str:
    """Returns a value as messages quote it: on one line and not too long."""
    text = repr(value) if isinstance(value, str) else render_value(_plain(value))
    return text if len(text) <= 80 else f"{text[:77]}..."


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def _compose(text: str, place: Callable[[int], str]) -> yaml.Node | None:
    """Returns the node tree of a text; `place` makes of a line number how a message begins."""
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise errors.ConfigError(
            f"{place(line)}: no valid YAML: a control character "
            f"(given: U+{int(error.character):04X}). Remove it."
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise errors.ConfigError(f"{place(line)}: {_problem(error)}") from error
    except RecursionError as error:
        raise errors.ConfigError(f"{place(1)}: is nested too deeply. Write it flatter.") from error


def _problem(error: yaml.MarkedYAMLError) -> str:
    """Returns what is wrong, for an error of the YAML parser."""
    what = str(error.problem or error.context)
    if what.startswith("tags are not allowed"):
        return f"{what}. Write plain values."
    if "'\\t'" in what:
        return "no valid YAML: a tab. Indent with spaces."
    begin, mark = error.context_mark, error.problem_mark
    if begin is not None and mark is not None and begin.line != mark.line:
        what += f" ({error.context} that begins in line {begin.line + 1})"
    return f"no valid YAML: {what}."


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line
    return line + 1


class _Builder:
    """Makes plain data of nodes and notes the line of every key."""

    def __init__(self, place: Callable[[int], str]) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._place = place
        self._num_nodes = 0
        self._open: set[int] = set()

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        self._num_nodes += 1
        if id(node) in self._open or self._num_nodes > MAX_NODES:
            raise self._error(node, "an anchor that repeats itself. Write the values out")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        self._open.add(id(node))
        value: Any
        if isinstance(node, yaml.MappingNode):
            value = self._mapping(node, path)
        else:
            value = []
            for index, item in enumerate(node.value):
                self.lines[(*path, index)] = _line(item)
                value.append(self.build(item, (*path, index)))
        self._open.remove(id(node))
        return value

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        own: dict[str, int] = {}
        for key_node, value_node, is_merged in self._items(node):
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(key_node, "a key that is no text. Write `key: value`")
            key = str(key_node.value)
            if key in own and not is_merged:
                raise self._error(
                    key_node,
                    f"{'.'.join(map(str, (*path, key)))} stands here twice, first in line "
                    f"{own[key]}. Remove one of them",
                )
            if key in values and is_merged:
                continue
            if not is_merged:
                own[key] = _line(key_node)
            self.lines[(*path, key)] = _line(key_node)
            values[key] = self.build(value_node, (*path, key))
        return values

    def _items(self, node: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node, bool]]:
        """Yields the pairs of a mapping, and after them those that `<<` merges into it."""
        merged: list[yaml.Node] = []
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value == "<<" and key.style is None:
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
            else:
                yield key, value, False
        for other in merged:
            if not isinstance(other, yaml.MappingNode) or id(other) in self._open:
                raise self._error(other, "`<<` wants the anchor of another mapping")
            for key, value in other.value:
                yield key, value, True

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text = str(node.value)
        kind = node.tag.removeprefix(_PREFIX)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind in {"int", "float"}:
            return _number(text, kind)
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            raise self._error(node, "a character that no text can hold. Remove it")
        return text

    def _error(self, node: yaml.Node, what: str) -> errors.ConfigError:
        return errors.ConfigError(f"{self._place(_line(node))}: {what}.")


def _number(text: str, kind: str) -> int | float:
    if kind == "int" and len(text) < 100:
        return int(text)
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))
