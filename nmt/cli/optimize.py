"""`nmt optimize`: measures how a model translates best on this processor, and notes it in its folder."""

import argparse
import collections
import contextlib
import itertools
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from nmt import errors
from nmt.checkpoint import folder
from nmt.config import loading as config_loading
from nmt.config import schema
from nmt.data import readers
from nmt.inference import held_out, loading, optimizing, shortlists, translator
from nmt.interop import ctranslate2_engine, ctranslate2_kept
from nmt.models import packed
from nmt.runtime import device as devices
from nmt.runtime import files, locks

logger = logging.getLogger(__name__)

# Enough to learn a shortlist from; more would cost memory and time.
MAX_PAIRS = 200_000

# Lines on which an export is compared with the model.
CHECK_LINES = 500

Pairs = tuple[list[str], list[str]]
Machine = translator.Translator | ctranslate2_engine.Engine


def run(args: argparse.Namespace) -> int:
    """Measures the precisions on the validation set, and writes the choice into the folder.

    Args:
        args: `model`, `data` (two files, or None for the validation set), `shortlist`, `batch_size`,
            `threads`.

    Returns:
        0.

    Raises:
        errors.ModelError: the folder holds no whole model.
        errors.TrainingError: a run is at work on the folder.
        errors.DataError: there is nothing to measure on.
    """
    path = Path(args.model)
    folder.verify(path)  # before the lock, which would make a file in whatever folder this is
    loading.set_up_threads(args.threads)
    with locks.RunLock(path):
        config = config_loading.parse(folder.read_config(path), str(path / folder.CONFIG))
        sources, references = _pairs(args.data, config)
        ways: dict[str, tuple[str, shortlists.Shortlist | None]]
        ways = {name: (name, None) for name in _precisions()}
        learnt, coverage = None, None
        if args.shortlist:
            learnt = _learn(path, config)
            texts = loading.load_texts(path)
            held_out = _id_pairs(texts, sources, references)
            coverage = learnt.coverage(held_out)
            ways |= {f"{name} + shortlist": (name, learnt) for name in list(ways)}
        machines: dict[str, Machine] = {
            name: _machine(path, *way, batch_sentences=args.batch_size)
            for name, way in ways.items()
        }
        with _exports(path, config, sources) as exports:
            for name, exported in exports.items():
                machines[name] = ctranslate2_kept.load(
                    exported, config.model, config.decoding, args.batch_size
                )
            measurements = optimizing.measure(
                {name: machine.translate for name, machine in machines.items()},
                sources,
                references,
                clock=time.perf_counter,
            )
            chosen = optimizing.choose(measurements)
            # What our own search takes, also where it is not the fastest: it has more options.
            own = optimizing.choose([one for one in measurements if one.name in ways])
            engine = None
            if chosen.name in exports:
                engine = ctranslate2_kept.keep(path, exports[chosen.name])
        decision = {
            "precision": ways[own.name][0],
            "shortlist": ways[own.name][1] is not None,
            "shortlist_coverage": coverage,
            ctranslate2_kept.KEY: engine,
            "max_loss": optimizing.MAX_LOSS,
            "measured": [one.as_json() for one in measurements],
            "lines": len(sources),
            "beam_size": config.decoding.beam_size,
            "batch_sentences": args.batch_size,
            "processor": devices.processor(),
            "threads": devices.num_threads(),
        }
        folder.record_optimized(path, decision, None if learnt is None else learnt.tensors())
        ctranslate2_kept.sweep(path, engine)
    for line in optimizing.table(measurements, chosen):
        print(line)
    print(f"BLEU|{measurements[0].signature}, {len(sources)} lines")
    if coverage is not None:
        print(f"shortlist: {100 * coverage:.2f} % of the reference tokens can be produced with it")
    _tell_if_unused(config)
    return 0


def _learn(path: Path, config: schema.Config) -> shortlists.Shortlist:
    """Returns the shortlist of the model's training data: `MAX_PAIRS` pairs, of each corpus as many.

    Raises:
        errors.FileError: a corpus cannot be read.
        errors.UsageError: the model has several languages, or its tokenizer has special pieces at the end.
    """
    if len(config.data.languages) > 1:
        raise errors.UsageError(
            "--shortlist: is for one target language (given: a model with "
            f"{', '.join(config.data.languages)}). Leave it out."
        )
    texts = loading.load_texts(path)
    ids = texts.tgt.vocab
    if shortlists.num_special(ids) > shortlists.NUM_ALWAYS:
        raise errors.UsageError(
            "--shortlist: keeps the pieces up to the last special one, which in this tokenizer are "
            f"{shortlists.num_special(ids):,} of {len(ids):,}. Leave it out."
        )
    try:
        # What is restored from its own damage says nothing of translations.
        parallel = [entry for entry in config.data.train if entry.mono is None]
        pairs = list(itertools.islice(_in_turn(map(readers.read_pairs, parallel)), MAX_PAIRS))
    except errors.FileError as error:
        raise errors.FileError(
            f"{str(error).rstrip('.')}. A shortlist is learnt from the training data of the model. "
            "Put it back, or leave out --shortlist."
        ) from error
    id_pairs = _id_pairs(texts, [src for src, _ in pairs], [tgt for _, tgt in pairs])
    logger.info("shortlist: learning from %d pairs", len(id_pairs))
    return shortlists.learn(id_pairs, texts.src.vocab, texts.tgt.vocab)


def _in_turn(corpora: Iterable[Iterator[tuple[str, str]]]) -> Iterator[tuple[str, str]]:
    """Yields a pair of each corpus, then another one of each, until all are at their ends."""
    waiting = collections.deque(corpora)
    while waiting:
        pairs = waiting.popleft()
        pair = next(pairs, None)
        if pair is not None:
            yield pair
            waiting.append(pairs)


def _id_pairs(
    texts: translator.Texts, sources: Sequence[str], references: Sequence[str]
) -> list[tuple[list[int], list[int]]]:
    ids = (texts.src.encode_batch(sources), texts.tgt.encode_batch(references))
    return [(list(src), list(tgt)) for src, tgt in zip(*ids, strict=True)]


def _precisions() -> list[str]:
    """Returns what is worth measuring here, and says what is not."""
    found = [optimizing.REFERENCE]
    for name, is_there in (("bf16", packed.has_packed_bf16()), ("int8", packed.has_int8())):
        if is_there:
            found.append(name)
        else:
            logger.info("%s: left out, this torch or processor has no kernel for it", name)
    return found


@contextlib.contextmanager
def _exports(
    path: Path, config: schema.Config, sources: Sequence[str]
) -> Iterator[dict[str, Path]]:
    """Exports the model for the time of the block, by name; says why if it cannot be."""
    try:
        ctranslate2_kept.check(config, path)
    except errors.UsageError as error:
        logger.info("ctranslate2: left out (%s)", error)
        yield {}
        return
    with ctranslate2_kept.made(path, sources[:CHECK_LINES]) as found:
        yield {f"ctranslate2 {name}": exported for name, exported in found.items()}


def _machine(
    path: Path,
    precision: str,
    shortlist: shortlists.Shortlist | None,
    *,
    batch_sentences: int | None,
) -> Machine:
    loaded = loading.load(path, device="cpu", precision=precision, shortlist=False)
    return translator.Translator(
        loaded.model,
        held_out.first_texts(loaded.config.data, loaded.texts),
        loaded.config.decoding,
        loaded.arithmetic,
        batch_sentences=batch_sentences,
        shortlist=shortlist,
        with_scores=False,
    )


def _pairs(named: Sequence[str] | None, config: schema.Config) -> Pairs:
    """Returns sources and references: of the files named, or of the validation set."""
    if named is None:
        try:
            pairs = list(readers.read_pairs(config.data.valid_corpora[0]))
        except errors.FileError as error:
            raise errors.FileError(
                f"{str(error).rstrip('.')}. The validation set of the model is gone. "
                "Give one like it with --data SRC TGT."
            ) from error
        return [src for src, _ in pairs], [tgt for _, tgt in pairs]
    sources, references = (list(files.read_lines(Path(name))) for name in named)
    if len(sources) != len(references) or not sources:
        raise errors.DataError(
            f"--data: wants two files with as many lines, one at least (given: {len(sources)} and "
            f"{len(references)}). Line n of one file translates line n of the other."
        )
    return sources, references


def _tell_if_unused(config: schema.Config) -> None:
    if config.decoding.precision != "auto":
        logger.warning(
            "decoding.precision: the configuration of this model says %s, which counts. "
            "Give --precision auto to take what was chosen.",
            config.decoding.precision,
        )
