"""What `nmt evaluate` judges: ready files, or what models make of files or of their test sets."""

import argparse
import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nmt import errors
from nmt.config import schema
from nmt.data import readers
from nmt.runtime import files, locations

if TYPE_CHECKING:
    from nmt.inference import translator

logger = logging.getLogger(__name__)

# Flags that say something about ready translations; the others are of models, search and machine.
_READY_FLAGS = frozenset(
    {
        *("verb", "quiet", "verbose", "hyp", "ref", "output", "segments", "json", "tsv"),
        *("metric", "bleu", "chrf", "ter", "exact_match", "lowercase", "tokenize"),
        *("comet_model", "download", "confidence", "resamples", "trials", "by", "frequency_text"),
    }
)


@dataclasses.dataclass(frozen=True)
class Given:
    """Translations by the name of their system, and what they are held against.

    Attributes:
        pair: name of its language pair, where there are several sets; else None.
        references: one or more translations of the corpus; a line each.
        sources: as many lines, or None where nothing wants them.
        tgt_lang: what sources ask for of a model that has several target languages; else None.
        systems: the translations.
    """

    pair: str | None
    references: list[list[str]]
    sources: list[str] | None = None
    tgt_lang: str | None = None
    systems: dict[str, list[str]] = dataclasses.field(default_factory=dict)


def ready(args: argparse.Namespace, *, wants_sources: bool) -> list[Given]:
    """Returns the lines of every --hyp and every --ref; no model is needed.

    Raises:
        errors.DataError: line counts differ, or a file is empty.
        errors.UsageError: a flag would be ignored, or --ref is missing.
    """
    known = _READY_FLAGS | ({"src"} if wants_sources else set())
    for name, value in vars(args).items():
        is_given = value is not None and (value is not False or name == "shortlist")
        if name not in known and is_given:
            raise errors.UsageError(
                f"--{name.replace('_', '-')}: would be ignored, since --hyp is translated already."
            )
    if not args.ref:
        raise errors.UsageError("--hyp: wants --ref, the file of references, at least once.")
    systems = {path: lines(path) for path in args.hyp}
    references = [lines(path) for path in args.ref]
    first, number = args.hyp[0], len(systems[args.hyp[0]])
    for path, found in [*zip(args.ref, references, strict=True), *systems.items()]:
        if len(found) != number:
            raise errors.DataError(
                f"{path}: {len(found)} lines, but {number} translations in {first}. "
                "Each translation wants one line of each reference."
            )
    sources = None if args.src is None else lines(args.src)
    if sources is not None and len(sources) != number:
        raise errors.DataError(
            f"{args.src}: {len(sources)} lines, but {number} translations in {first}. "
            "Each translation wants its source."
        )
    return [Given(None, references, sources, systems=systems)]


def translated(args: argparse.Namespace) -> list[Given]:
    """Returns translations by each --model of --src, or of the test sets of the first model.

    Raises:
        errors.DataError: line counts differ, or a file is empty.
        errors.UsageError: flags do not fit, or there is no test set.
    """
    if (args.src is None) != (not args.ref):
        raise errors.UsageError("--src and --ref: give both, or neither for the model's test set.")
    ensembles = [_members(text) for text in args.model or []]
    if args.ensemble_weights is not None and len(ensembles) > 1:
        raise errors.UsageError(
            f"--ensemble-weights: belong to one ensemble (given: {len(ensembles)} systems). "
            "Several --model are compared; write an ensemble as --model A,B."
        )
    # Imported here, so that scoring a ready file need not wait for torch.
    from nmt.cli import translate
    from nmt.inference import loading

    translate.check_batches(args)
    if not ensembles:
        ensembles = [[str(path)] for path in loading.find_model(None)]
    names = args.model or [ensembles[0][0]]
    datas = [_data(members[0]) for members in ensembles]
    sets = [_from_files(args)] if args.src is not None else _own_sets(args, names[0], datas[0])
    if args.src is None and len(names) > 1:
        logger.info("test set: data.test of %s, for all models", names[0])
    is_any_tagged = any(data.languages for data in datas)
    for name, members, data in zip(names, ensembles, datas, strict=True):
        # Beside a model with tags, one without has nothing to be told.
        flag = args.tgt_lang if data.languages or not is_any_tagged else None
        own = {**vars(args), "model": members, "tgt_lang": flag}
        machine = translate.build_translator(argparse.Namespace(**own), is_named_per_line=True)
        for one in sets:
            tgt_lang = one.tgt_lang if data.languages else None
            found = machine.translate(one.sources or [], tgt_lang)
            one.systems[name] = [best[0].text for best in found]
        _warn_of_long(machine)
    return sets


def lines(path: str) -> list[str]:
    """Returns the lines of a file; see `read_lines`."""
    return list(read_lines(path))


def read_lines(path: str) -> Iterator[str]:
    """Yields the lines of a file, and warns at the end of those that are not valid UTF-8.

    Raises:
        errors.DataError: it has none.
    """
    counter, is_empty = files.DecodeCounter(), True
    for line in files.read_lines(locations.location(path), counter):
        is_empty = False
        yield line
    readers.warn_of_invalid({path: counter.num_invalid})
    if is_empty:
        raise errors.DataError(f"{path}: is empty: there is no line to score.")


def _members(text: str) -> list[str]:
    """Returns the folders of an ensemble; a comma may also be part of a folder's name."""
    return [text] if Path(text).exists() else text.split(",")


def _data(path: str) -> schema.DataConfig:
    from nmt.checkpoint import folder
    from nmt.config import loading as config_loading

    name = str(Path(path) / folder.CONFIG)
    return config_loading.parse(folder.read_config(Path(path)), name).data


def _from_files(args: argparse.Namespace) -> Given:
    found = Given(None, [lines(path) for path in args.ref], lines(args.src), args.tgt_lang)
    assert found.sources is not None
    for path, reference in zip(args.ref, found.references, strict=True):
        if len(reference) != len(found.sources):
            raise errors.DataError(
                f"{path}: {len(reference)} lines, but the source has {len(found.sources)}. "
                "Each source line wants one reference."
            )
    return found


def _own_sets(args: argparse.Namespace, path: str, data: schema.DataConfig) -> list[Given]:
    """Returns the test sets that a configuration names."""
    from nmt.inference import held_out

    corpora = data.test_corpora
    if not corpora:
        raise errors.UsageError(
            f"{path}: its configuration names no data.test. Give --src and --ref."
        )
    if args.tgt_lang is not None and len(corpora) > 1:
        raise errors.UsageError(
            "--tgt-lang: would be ignored, since data.test says the language of each of its corpora. "
            "Leave it out, or give --src and --ref."
        )
    return [
        Given(
            one.name if len(corpora) > 1 else None,
            [one.references],
            one.sources,
            args.tgt_lang or data.pair_of(corpus)[1],
        )
        for one, corpus in zip(held_out.read(data, corpora), corpora, strict=True)
    ]


def _warn_of_long(machine: "translator.Translator") -> None:
    for what, number in (("cut", machine.num_cut), ("split", machine.num_split)):
        if number:
            logger.warning(
                "lines that were longer than the model reads and were %s: %d", what, number
            )
