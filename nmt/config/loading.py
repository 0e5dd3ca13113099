"""From a YAML file to a checked configuration, and back."""

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic

from nmt import errors
from nmt.config import complaints, documents, families, given, schema, sections

# What a resumed run may change, since neither the weights nor their choice depend on it. Data paths
# are among them: a corpus may move, and its content is compared by checksum. So is `decoding`, of
# which only the scores of later validations depend.
FREE_KEYS = frozenset(
    {
        "run_dir",
        "device",
        "threads",
        "data.cache_dir",
        "data.num_workers",
        "training.max_updates",
        "training.max_epochs",
        "training.max_minutes",
        "training.patience",
        "training.logging_interval",
        "training.checkpoint_interval",
        "training.keep_checkpoints",
        "training.loggers",
        "training.memory_limit",
        "training.sharding",
    }
)
# Patterns, of which the first one that fits counts.
_ORDERED_KEYS = frozenset({"training.rate_factors"})
_CORPUS_PATHS = frozenset({"src", "tgt", "tsv", "jsonl", "mono", "alignments"})


def load(path: str | Path, overrides: Sequence[str] = ()) -> schema.Config:
    """Returns the configuration of a YAML file.

    Args:
        path: the file.
        overrides: `key=value` settings that go before those of the file.

    Raises:
        errors.ConfigError: the file cannot be read, or what it says is wrong; one line per mistake.
    """
    return parse(_read(path), str(path), overrides)


def parse(text: str, name: str, overrides: Sequence[str] = ()) -> schema.Config:
    """Returns the configuration of a YAML text.

    Args:
        text: YAML.
        name: what messages call it.
        overrides: `key=value` settings that go before those of the text.

    Raises:
        errors.ConfigError: what it says is wrong; one line per mistake.
    """
    values = given.Given(documents.parse(text, name), name)
    values.override(overrides)
    _fill_empty_sections(values.data)
    _load_plugins(values)
    try:
        config = schema.Config.model_validate(_tuples(values.data), strict=True)
    except pydantic.ValidationError as error:
        raise errors.ConfigError(complaints.explain(error, values)) from error
    ignored = [
        f"{values.place((*path, key))}: would be ignored, since {reason}. Remove it."
        for path, section in sections.sections_with_rules(config)
        for key, reason in section.inapplicable().items()
        if values.has((*path, key)) and not _is_off(section, key)
    ]
    if ignored:
        raise errors.ConfigError("\n".join(ignored[: complaints.MAX_LINES]))
    return config


def dump(config: schema.Config) -> str:
    """Returns the YAML of the whole effective configuration; `parse` reads it back as the same.

    Settings that the others make meaningless are left out, as `parse` would refuse them.

    Args:
        config: a configuration.
    """
    return documents.render(_effective(config))


def changed_keys(old: schema.Config, new: schema.Config) -> list[str]:
    """Returns the dotted keys whose effective values differ, in schema order.

    Of encoders or decoders of two families only the `type` is named; of lists of different lengths
    the list.
    """
    return _differences(_effective(old), _effective(new), "")


def frozen_keys(old: schema.Config, new: schema.Config, update: int = 0) -> list[str]:
    """Returns the changed keys that may not change when a run is resumed.

    Args:
        old: what the run was started with.
        new: what it is to go on with.
        update: updates done so far.
    """
    shapes_rate = is_rate_shaped(old.training, update) or is_rate_shaped(new.training, 0)
    frozen = []
    for key in changed_keys(old, new):
        is_free = key in FREE_KEYS or _is_free_group(key)
        if not is_free or (key == "training.max_updates" and shapes_rate):
            frozen.append(key)
    return frozen


def is_rate_shaped(training: schema.TrainingConfig, update: int) -> bool:
    """Returns whether the rates up to an update were what they were because of `max_updates`."""
    if training.schedule in {"cosine", "linear"}:
        return True
    if not training.cooldown_updates or training.max_updates is None:
        return False
    # Before the cooldown its beginning may still be moved.
    return update > training.max_updates - training.cooldown_updates


def apply_decoding_flags(
    decoding: schema.DecodingConfig, flags: Mapping[str, Any]
) -> schema.DecodingConfig:
    """Returns decoding settings with those of the command line over them.

    Args:
        decoding: the settings of the configuration.
        flags: key of the `decoding` section to value; None stands for a flag that was not given.

    Raises:
        errors.UsageError: a value is wrong, unknown, does not fit or would be ignored.
    """
    new = {key: value for key, value in flags.items() if value is not None}
    for key in new:
        if key not in schema.DecodingConfig.model_fields:
            known = [_flag(name) for name in schema.DecodingConfig.model_fields]
            hint = errors.did_you_mean(_flag(key), known)
            raise errors.UsageError(
                f"{_flag(key)}: unknown option.{hint} Known: {', '.join(known)}."
            )
    merged = decoding.model_dump() | new
    try:
        result = schema.DecodingConfig.model_validate(merged, strict=True)
    except pydantic.ValidationError as error:
        raise errors.UsageError(_flag_mistake(error, new)) from error
    for key, reason in result.inapplicable().items():
        if key in new and not _is_off(result, key):
            raise errors.UsageError(f"{_flag(key)}: would be ignored, since {reason}. Remove it.")
    return result


def _is_off(section: pydantic.BaseModel, key: str) -> bool:
    """Tells whether a setting is null or 0 and so by default: that it is ignored misleads nobody.

    It is how an override takes back what the file says.
    """
    value = getattr(section, key)
    is_nothing = value is None or (value == 0 and value is not False)
    return is_nothing and value == type(section).model_fields[key].default


def _flag_mistake(error: pydantic.ValidationError, flags: Mapping[str, Any]) -> str:
    """Returns the first mistake, at the place of the flag that made it."""
    detail = error.errors(include_url=False)[0]
    if detail["loc"]:
        what = complaints.wants(detail) or complaints.sentence(detail["msg"])
        return f"{_flag(str(detail['loc'][0]))}: {what}"
    text = str(detail.get("ctx", {}).get("error", detail["msg"]))
    key, rest = complaints.keyed(text, schema.DecodingConfig)
    if key and key[0] in flags:
        return f"{_flag(str(key[0]))}: {complaints.sentence(rest)}"
    # The flag clashes with a setting of the configuration.
    return f"{_flag(next(iter(flags)))}: does not fit. {complaints.sentence(text)}"


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def _read(path: str | Path) -> str:
    try:
        # A byte order mark is what some editors put before UTF-8.
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise errors.ConfigError(
            f"{path}: is not UTF-8 (byte {error.start + 1}). Save it as UTF-8."
        ) from error
    except FileNotFoundError as error:
        raise errors.ConfigError(
            f"{path}: there is no such file. `nmt init` writes a configuration to start from."
        ) from error
    except IsADirectoryError as error:
        raise errors.ConfigError(f"{path}: is a folder. Name the configuration file.") from error
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) and error.errno else errno.EINVAL
        raise errors.ConfigError(f"{path}: cannot be read ({os.strerror(number)}).") from error


def _fill_empty_sections(data: dict[str, Any]) -> None:
    """Makes empty mappings of sections that have only a header: `training:` and nothing below."""
    tops = ("data", "tokenizer", "model", "training", "decoding")
    model = data.get("model")
    inner = [(model, side) for side in sections.SIDES] if isinstance(model, dict) else []
    for parent, key in [*((data, top) for top in tops), *inner]:
        if key in parent and parent[key] is None:
            parent[key] = {}


def _load_plugins(values: given.Given) -> None:
    plugins = values.data.get("plugins")
    if not isinstance(plugins, list) or not all(isinstance(name, str) for name in plugins):
        # Absent, or wrong in a way that validation explains.
        return
    for index, name in enumerate(plugins):
        try:
            families.load_plugin(name)
        except errors.ConfigError as error:
            raise errors.ConfigError(f"{values.place(('plugins', index))}: {error}") from error


def _tuples(value: Any) -> Any:
    """Returns the data with tuples for lists, as strict validation wants them."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value


def _lists(value: Any) -> Any:
    """Returns the data with lists for tuples, as YAML has them."""
    if isinstance(value, tuple | list):
        return [_lists(item) for item in value]
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return value


def _effective(config: schema.Config) -> dict[str, Any]:
    """Returns what counts of a configuration, as plain data."""
    data: dict[str, Any] = _lists(config.model_dump())
    for path, section in sections.sections_with_rules(config):
        holder: Any = data
        for key in path:
            holder = holder[key]
        for key in section.inapplicable():
            holder.pop(key, None)
    corpora = data["data"]
    if corpora["test"] is None:
        del corpora["test"]
    if not config.data.has_mono:
        del corpora["noise"]
    held_out = [corpora["valid"], corpora.get("test", [])]
    groups = [group if isinstance(group, list) else [group] for group in held_out]
    for corpus in [*corpora["train"], *groups[0], *groups[1]]:
        for key in [key for key, value in corpus.items() if value is None]:
            del corpus[key]
    return data


def _differences(old: Any, new: Any, key: str) -> list[str]:
    if key in _ORDERED_KEYS and list(old.items()) != list(new.items()):
        return [key]
    if old == new and type(old) is type(new) and not isinstance(old, dict):
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        names = list(dict.fromkeys([*old, *new]))
        if key in {"model.encoder", "model.decoder"} and old["type"] != new["type"]:
            names = ["type"]
        return [
            found
            for name in names
            for found in _differences(
                old.get(name), new.get(name), f"{key}.{name}" if key else str(name)
            )
        ]
    are_tables = isinstance(old, list) and isinstance(new, list) and len(old) == len(new)
    if are_tables and all(isinstance(item, dict) for item in [*old, *new]):
        return [
            found
            for index, (before, after) in enumerate(zip(old, new, strict=True))
            for found in _differences(before, after, f"{key}.{index}")
        ]
    return [key]


def _is_free_group(key: str) -> bool:
    """Returns whether a key is a path of a corpus, of the test corpus, or of `decoding`."""
    names = key.split(".")
    if names[0] == "decoding" or names[:2] == ["data", "test"]:
        return True
    return names[:2] in (["data", "train"], ["data", "valid"]) and names[-1] in _CORPUS_PATHS
