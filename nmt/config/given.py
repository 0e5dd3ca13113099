"""What the user gave: the values of the file and of `--set`, and where each of them came from."""

from collections.abc import Iterable
from typing import Any

from nmt import errors
from nmt.config import documents


def dotted(path: documents.KeyPath) -> str:
    """Returns a path of keys as users write it: `data.train.0.src`."""
    return ".".join(str(key) for key in path)


class Given:
    """A configuration before it is checked.

    Attributes:
        data: dictionaries, lists and scalars.
    """

    def __init__(self, document: documents.Document, name: str) -> None:
        """Takes what a file holds.

        Args:
            document: the parsed file.
            name: what messages call the file.
        """
        self.data = document.data
        self._name = name
        self._lines = dict(document.lines)
        self._overrides: dict[documents.KeyPath, str] = {}

    def override(self, settings: Iterable[str]) -> None:
        """Lays `key=value` settings over the file, in their order.

        Args:
            settings: such as `training.max_updates=100` or `data.train.0.src=train.en`; the value
                is YAML.

        Raises:
            errors.ConfigError: a setting has no such form, or leads into a value.
        """
        for setting in settings:
            place = _place_of(setting)
            key, equals, text = setting.partition("=")
            names = key.strip().split(".")
            if not equals or not all(names):
                raise errors.ConfigError(
                    f"{place}: wants key=value, such as training.max_updates=100."
                )
            path = self._put(names, documents.parse_value(text, place), place)
            # What the file said below this key no longer counts.
            for stale in [known for known in self._lines if known[: len(path)] == path]:
                del self._lines[stale]
            for stale in [known for known in self._overrides if known[: len(path)] == path]:
                del self._overrides[stale]
            self._overrides[path] = setting

    def place(self, path: documents.KeyPath) -> str:
        """Returns where a key was given, as messages begin: `toy.yaml:12 model.encoder.layerz`.

        Args:
            path: the key; where it was not given itself, a setting of something in it counts, or
                the section that would hold it.
        """
        if path and path not in self._overrides and path not in self._lines:
            for other, setting in self._overrides.items():
                if other[: len(path)] == path:
                    return f"{_place_of(setting)}: {dotted(path)}"
        for length in range(len(path), -1, -1):
            prefix = path[:length]
            if prefix in self._overrides:
                place = _place_of(self._overrides[prefix])
                return place if prefix == path else f"{place}: {dotted(path)}"
            if prefix in self._lines:
                return f"{self._name}:{self._lines[prefix]} {dotted(path)}".rstrip()
        return f"{self._name} {dotted(path)}".rstrip()

    def has(self, path: documents.KeyPath) -> bool:
        """Returns whether a key was given."""
        value: Any = self.data
        for key in path:
            if not isinstance(value, dict) or key not in value:
                return False
            value = value[key]
        return True

    def _put(self, names: list[str], value: Any, place: str) -> documents.KeyPath:
        """Sets the value that a dotted key leads to; returns its path."""
        target: Any = self.data
        path: list[documents.Key] = []
        for number, name in enumerate(names):
            is_last = number == len(names) - 1
            key: documents.Key = name
            if isinstance(target, list):
                is_number = name.isascii() and name.isdecimal() and len(name) < 10
                if not (is_number and int(name) < len(target)):
                    raise errors.ConfigError(
                        f"{place}: {dotted(tuple(path))} has no entry of this number "
                        f"(given: {name[:40]}). Entries: 0 to {len(target) - 1}."
                    )
                key = int(name)
                if not is_last and target[key] is None:
                    target[key] = {}
            elif isinstance(target, dict):
                if not is_last and target.get(name) is None:
                    target[name] = {}
            else:
                raise errors.ConfigError(
                    f"{place}: {dotted(tuple(path))} holds a value, not keys "
                    f"(given: {documents.shown(target)}). Set {dotted(tuple(path))} itself."
                )
            path.append(key)
            if is_last:
                target[key] = value
            else:
                target = target[key]
        return tuple(path)


def _place_of(setting: str) -> str:
    return f"--set {setting if setting.isprintable() else repr(setting)}"
