"""`nmt init`: a commented configuration for two parallel files."""

import argparse
import dataclasses
import itertools
import logging
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pydantic

from nmt import errors
from nmt.config import documents, families, loading, schema, sections
from nmt.runtime import files, remote

logger = logging.getLogger(__name__)

# Of a corpus without validation files, so much is held out to choose by, and so much again to test
# with: enough for both, little to lose.
HELD_OUT_SHARE = 20
MAX_HELD_OUT = 1000

Paths = tuple[Path, Path]

# From this size on the schema's default suits; below it the vocabulary shrinks with the corpus.
PAIRS_FOR_DEFAULT_VOCABULARY = 20_000
# 256 bytes, and those for the unknown, begin, end and padding.
NUM_FIXED_PIECES = 260

_HEAD = """\
# A configuration of nmt, written by `nmt init`. Train with: nmt train {name}
#
# A line that begins with `# key:` shows the default of that key; remove the `# ` to change it.
# docs/config.md describes every key, also of the other model families.
"""


@dataclasses.dataclass(frozen=True)
class Template:
    """What a configuration is written from.

    Attributes:
        name: the file that it will be.
        src_lang: source language.
        tgt_lang: target language.
        train: source and target file of training.
        valid: source and target file of validation.
        test: source and target file of the test set, or None.
        family: of encoder and decoder.
        num_pairs: size of the training corpus.
        num_characters: different ones in it.
    """

    name: Path
    src_lang: str
    tgt_lang: str
    train: Paths
    valid: Paths
    test: Paths | None
    family: str
    num_pairs: int
    num_characters: int


def run(args: argparse.Namespace) -> int:
    """Writes a configuration, and splits off validation and test data where none was given.

    Args:
        args: `src`, `tgt`, `src_lang`, `tgt_lang`, `valid_src`, `valid_tgt`, `family`, `output`,
            `force`.

    Returns:
        0.

    Raises:
        errors.UsageError: the flags do not fit together, or a file would be overwritten.
        errors.DataError: the files are not parallel, or too short.
    """
    output = Path(args.output or "config.yaml")
    for flag in ("src", "tgt", "valid_src", "valid_tgt"):
        if remote.is_url(name := getattr(args, flag)):
            raise errors.UsageError(
                f"--{flag.replace('_', '-')}: wants a file of this machine, which is read several times "
                f"(given: {name}). Fetch it, or name it in a configuration of your own."
            )
    given = (Path(args.src), Path(args.tgt))
    _check_languages(args)
    if (args.valid_src is None) != (args.valid_tgt is None):
        raise errors.UsageError("--valid-src and --valid-tgt: give both, or neither.")
    _check_new(output, force=args.force)
    (num_pairs, num_characters), num_held_out = _count_pairs(given), 0
    train, valid, test = given, given, None
    if args.valid_src is not None:
        valid = (Path(args.valid_src), Path(args.valid_tgt))
        _count_pairs(valid)
    else:
        num_held_out = _num_held_out(given, num_pairs)
        train, valid, test = _split_paths(output, args)
        _check_split(given, (*train, *valid, *test), force=args.force)
    num_train = num_pairs - 2 * num_held_out
    family = args.family or "transformer"
    template = Template(
        output,
        args.src_lang,
        args.tgt_lang,
        train,
        valid,
        test,
        family,
        num_train,
        num_characters,
    )
    text = render(template)
    # The text is ours, but the names in it are the user's.
    loading.parse(text, str(output))
    if test is not None:
        _split(given, {train: num_train, valid: num_held_out, test: num_held_out})
        logger.info(
            "no validation files were given: of the last %d of %d pairs, one half is held out for "
            "validation (%s, %s), the other for the test (%s, %s)",
            2 * num_held_out,
            num_pairs,
            *valid,
            *test,
        )
    files.make_dir(output.parent)
    files.atomic_write_text(output, text)
    logger.info("wrote %s; next: nmt train %s", output, output)
    return 0


def render(template: Template) -> str:
    """Returns the configuration: what is given as settings, every default as a comment.

    Args:
        template: what is given.
    """
    lines = [_HEAD.format(name=template.name)]
    lines += _knobs(schema.Config, 0, {"run_dir": f"runs/{template.name.stem}"})
    lines += _data(template)
    lines += _section("tokenizer", schema.TokenizerConfig, _vocabulary(template))
    lines += ["", "model:", *_knobs(schema.ModelConfig, 1, {})]
    for side in sections.SIDES:
        options = families.options_schema(template.family, side)
        lines += [f"  {side}:", *_knobs(options, 2, {"type": template.family})]
    lines += _section("training", schema.TrainingConfig, {})
    lines += _section("decoding", schema.DecodingConfig, {})
    return "\n".join([*lines, ""])


def _section(
    name: str, section: type[pydantic.BaseModel], values: dict[str, str | int]
) -> list[str]:
    return ["", f"{name}:", *_knobs(section, 1, values)]


def _data(template: Template) -> list[str]:
    fields = schema.DataConfig.model_fields
    weight = schema.TrainCorpus.model_fields["weight"].description
    (train_src, train_tgt), (valid_src, valid_tgt) = template.train, template.valid
    test = "  # test: {src: test.src, tgt: test.tgt}"
    if template.test is not None:
        names = [str(path) for path in template.test]
        test = "  test: " + documents.render_value({"src": names[0], "tgt": names[1]})
    value = documents.render_value
    languages = {"src_lang": template.src_lang, "tgt_lang": template.tgt_lang}
    return [
        "",
        "data:",
        *_knobs(schema.DataConfig, 1, languages),
        f"  train:  # {fields['train'].description}",
        f"    - src: {value(str(train_src))}",
        f"      tgt: {value(str(train_tgt))}",
        f"      # weight: 1.0  # {weight}",
        f"  valid:  # {fields['valid'].description}",
        f"    src: {value(str(valid_src))}",
        f"    tgt: {value(str(valid_tgt))}",
        f"{test}  # {fields['test'].description}",
    ]


def _knobs(
    section: type[pydantic.BaseModel], depth: int, values: dict[str, str] | dict[str, str | int]
) -> list[str]:
    """Returns a line per setting: given ones as settings, the others' defaults as comments."""
    lines = []
    for knob in sections.knobs_of(section):
        given = values.get(knob.key)
        if given is None:
            assert knob.default is not None, f"{knob.key} has no default and is not given"
            setting = f"# {knob.key}: {knob.default}"
        else:
            setting = f"{knob.key}: {documents.render_value(given)}"
        unit = f" ({knob.unit})" if knob.unit else ""
        lines.append(f"{'  ' * depth}{setting}  # {knob.text}{unit}")
    return lines


def _vocabulary(template: Template) -> dict[str, str | int]:
    """Returns a vocabulary size for a small corpus; nothing where the default suits."""
    default: int = schema.TokenizerConfig.model_fields["vocab_size"].default
    scaled = default * min(template.num_pairs / PAIRS_FOR_DEFAULT_VOCABULARY, 1.0)
    # Beside bytes and special pieces each character is one, and pieces of several need room as well.
    needed = 1.1 * (NUM_FIXED_PIECES + template.num_characters)
    size = max(int(scaled) // 100, math.ceil(needed / 100), 4) * 100
    return {} if size == default else {"vocab_size": size}


def _check_languages(args: argparse.Namespace) -> None:
    for flag, language in (("--src-lang", args.src_lang), ("--tgt-lang", args.tgt_lang)):
        if not re.fullmatch(r"\w[\w.-]*", language):
            raise errors.UsageError(
                f"{flag}: is no language code (given: {language!r}). Write one such as en or pt-BR."
            )


def _split_paths(output: Path, args: argparse.Namespace) -> tuple[Paths, Paths, Paths]:
    """Returns the files for training, validation and test, whose names differ in any case."""
    folder = output.parent / "data" / output.stem
    ends = (args.src_lang, args.tgt_lang)
    if args.src_lang.lower() == args.tgt_lang.lower():
        ends = (f"src.{args.src_lang}", f"tgt.{args.tgt_lang}")
    train, valid, test = (
        (folder / f"{name}.{ends[0]}", folder / f"{name}.{ends[1]}")
        for name in ("train", "valid", "test")
    )
    return train, valid, test


def _check_new(path: Path, *, force: bool) -> None:
    if path.is_dir():
        raise errors.UsageError(f"{path}: is a folder. Name a file with --output.")
    if path.exists() and not force:
        raise errors.UsageError(
            f"{path}: exists already. Name another file with --output, or overwrite it with --force."
        )


def _check_split(given: Paths, made: tuple[Path, ...], *, force: bool) -> None:
    for path in made:
        if path.exists() and any(path.samefile(source) for source in given):
            raise errors.UsageError(
                f"{path}: would be overwritten by its own split. Give --valid-src and --valid-tgt, "
                "or name another file with --output."
            )
        _check_new(path, force=force)


def _count_pairs(paths: Paths) -> tuple[int, int]:
    """Returns the number of pairs of two parallel files, and of different characters in them.

    Raises:
        errors.DataError: their numbers of lines differ, or there are none.
        errors.FileError: one of them cannot be read.
    """
    for path in paths:
        if path.exists() and not path.is_file():
            raise errors.FileError(
                f"{path}: is no regular file. Corpora are read more than once; write it to a file."
            )
    characters = set[str]()
    counts = [0, 0]
    for side, path in enumerate(paths):
        for line in files.read_lines(path):
            characters.update(line)
            counts[side] += 1
    src, tgt = counts
    if src != tgt:
        raise errors.DataError(
            f"{paths[1]}: is not parallel to {paths[0]} (given: {tgt} and {src} lines). "
            "Line n of one has to be the translation of line n of the other."
        )
    if src == 0:
        raise errors.DataError(f"{paths[0]}: is empty. Name a file with sentences.")
    return src, len(characters)


def _num_held_out(paths: Paths, num_pairs: int) -> int:
    """Returns how many pairs each of validation and test gets."""
    if num_pairs < 3:
        raise errors.DataError(
            f"{paths[0]}: has too few lines to hold any out (given: {num_pairs}). "
            "Add pairs, or give --valid-src and --valid-tgt."
        )
    return min(MAX_HELD_OUT, max(1, num_pairs // HELD_OUT_SHARE))


def _split(given: Paths, sizes: Mapping[Paths, int]) -> None:
    """Writes the pairs of a corpus, in their order, into files of these sizes."""
    counter = files.DecodeCounter()
    for side, source in enumerate(given):
        lines = files.read_lines(source, counter)
        for paths, size in sizes.items():
            files.make_dir(paths[side].parent)
            _write_lines(paths[side], itertools.islice(lines, size))
    if counter.num_invalid:
        logger.warning(
            "%d lines were not valid UTF-8; bad bytes were replaced", counter.num_invalid
        )


def _write_lines(path: Path, lines: Iterator[str]) -> None:
    with files.atomic_write(path) as stream:
        for line in lines:
            stream.write(line.encode() + b"\n")
