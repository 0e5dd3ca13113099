"""From a configuration to what a run needs: tokenizers, corpus, model, batches."""

import dataclasses
import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

import torch

from nmt import errors
from nmt.config import corpora, schema
from nmt.data import batches, cache, corpus, filler, filters, mixing, plan, readers, sampling
from nmt.models import seq2seq
from nmt.runtime import device as devices
from nmt.runtime import distributed, locations
from nmt.text import noise, sentencepiece_training, tokenizer
from nmt.text import sampling as subwords
from nmt.training import selection

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run is made of.

    Attributes:
        model: freshly initialised from the seed, in training mode; on the device, or on the CPU if its
            parameters are still to be sharded.
        loader: batches from any position.
        src_tokenizer: of the source side.
        tgt_tokenizer: of the target side.
        data: the training corpus, which may still be under way; `close` ends that.
    """

    model: seq2seq.Seq2Seq
    loader: batches.Loader
    src_tokenizer: tokenizer.Tokenizer
    tgt_tokenizer: tokenizer.Tokenizer
    data: corpus.MappedCorpus

    @property
    def fingerprint(self) -> str:
        """What the training corpus and its pieces are known by."""
        return self.data.fingerprint

    def close(self) -> None:
        """Ends the process that tokenises the corpus, if there is one."""
        self.data.close()


def make_tokenizers(config: schema.Config, folder: Path) -> None:
    """Trains the tokenizers from the training corpora, or adopts ready ones.

    Args:
        config: the whole configuration.
        folder: `tokenizer/` of the run.

    Raises:
        errors.ConfigError: the vocabulary is larger than the data allows; a ready model is broken.
        errors.DataError: the corpora cannot be read.
    """
    settings = config.tokenizer
    if settings.is_ready:
        src, tgt = settings.model or settings.src_model, settings.model or settings.tgt_model
        assert src is not None and tgt is not None, "the schema has checked that both are named"
        tokenizer.adopt_models(
            folder,
            Path(src),
            None if settings.model else Path(tgt),
            lowercase=settings.lowercase,
        )
        return

    def lines(side: readers.Side) -> Iterator[str]:
        for entry in config.data.train:
            yield from readers.read_side(entry, side)

    logger.info("training the tokenizer (%s)", settings.type)
    tokenizer.build_tokenizers(
        folder,
        sentencepiece_training.TokenizerSettings(
            type=settings.type,
            vocab_size=settings.vocab_size,
            normalization=settings.normalization,
            lowercase=settings.lowercase,
            byte_fallback=settings.byte_fallback,
            character_coverage=settings.character_coverage,
            user_defined_symbols=settings.user_defined_symbols,
            split_digits=settings.split_digits,
            max_sentences=settings.max_sentences,
            seed=config.seed,
            reserved=config.data.reserved_pieces,
        ),
        lambda: lines("src"),
        lambda: lines("tgt"),
        shared=settings.is_shared,
        tgt_vocab_size=settings.tgt_vocab_size,
        tgt_type=settings.tgt_type,
    )


def held_out_fingerprint(config: schema.Config) -> str:
    """Returns a SHA-256 over the content of the validation corpora.

    Raises:
        errors.FileError: a file cannot be read, or only once.
    """
    paths = [path for entry in config.data.valid_corpora for path in readers.corpus_files(entry)]
    return hashlib.sha256("".join(map(locations.fingerprint, paths)).encode()).hexdigest()


def check_held_out(config: schema.Config, known: str | None) -> str:
    """Returns what changes when the validation corpora do: scores of others say nothing.

    Args:
        config: the whole configuration.
        known: what it was when the run was started, or None if nobody knows.

    Raises:
        errors.FileError: a file cannot be read, or only once.
        errors.TrainingError: they are not those that the run was started with.
    """
    found = held_out_fingerprint(config)
    if known not in {None, found}:
        raise errors.TrainingError(
            f"{config.run_dir}: the validation corpus is not the one that the run was started with, so "
            "its scores cannot be compared. Put it back to resume the run, or start anew with --fresh."
        )
    return found


def prepare(
    config: schema.Config,
    folder: Path,
    arithmetic: devices.Arithmetic,
    *,
    fingerprint: str | None = None,
    group: distributed.Group | None = None,
) -> Parts:
    """Opens the corpora and builds the model.

    Args:
        config: the whole configuration.
        folder: `tokenizer/` of the run, made before.
        arithmetic: device and precision.
        fingerprint: what the corpus has to be known by, or None for a run that begins.
        group: the processes that train together, of which the first fills the token cache; or None.

    Raises:
        errors.ConfigError: the tokenizer cannot sample.
        errors.DataError: the corpora cannot be read, or no pair is left.
        errors.TrainingError: the corpus is another one.
    """
    group = group or distributed.Alone()
    src_tokenizer = tokenizer.Tokenizer.load(folder, "src")
    tgt_tokenizer = tokenizer.Tokenizer.load(folder, "tgt")
    devices.seed_everything(config.seed)
    model = seq2seq.build(
        config.model,
        len(src_tokenizer.vocab),
        len(tgt_tokenizer.vocab),
        shared=config.tokenizer.is_shared,
    )
    selection.freeze(config.training, model)
    num_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = (model.num_parameters() - num_trained) / 1e6
    logger.info(
        "model: %.2f million parameters%s",
        model.num_parameters() / 1e6,
        f", of which {frozen:.2f} million are frozen" if config.training.freeze else "",
    )
    kept = pair_filter(config, model)
    sampler = _sampler(config, src_tokenizer, tgt_tokenizer, kept)
    num_pieces = max(len(src_tokenizer.vocab), len(tgt_tokenizer.vocab))
    data = group.in_turn(
        lambda: _open_corpus(
            config, folder, kept, num_pieces, fingerprint=fingerprint, fills=group.is_main
        )
    )
    is_whole = config.training.sharding == "none" or group.size == 1
    # What is sharded goes to the device a part at a time: the whole may not fit there.
    device = arithmetic.device if is_whole else torch.device("cpu")
    model.to(device, arithmetic.weights_dtype).train()
    planner = plan.Planner(
        data,
        batch_tokens=config.training.batch_tokens,
        seed=config.seed,
        weights=_mix(config.data),
    )
    limit = config.training.max_device_tokens
    collator = batches.Collator(
        data,
        src_tokenizer.vocab,
        tgt_tokenizer.vocab,
        limit if isinstance(limit, int) else None,
        sampler,
    )
    loader = batches.Loader(
        planner,
        collator,
        arithmetic.device,
        rank=group.rank,
        num_ranks=group.size,
        num_workers=config.data.num_workers,
    )
    if data.is_complete:
        logger.info("%d batches an epoch", loader.epoch_batches)
    return Parts(model, loader, src_tokenizer, tgt_tokenizer, data)


def identify(
    config: schema.Config,
    tokenizer_dir: Path,
    kept: filters.PairFilter,
    num_pieces: int,
    known: str | None,
) -> tuple[tuple[filler.Entry, ...], cache.Layout, str]:
    """Returns the training corpora, how their tokens are kept, and what they are known by.

    Args:
        config: the whole configuration.
        tokenizer_dir: `tokenizer/` of the run.
        kept: which pairs are.
        num_pieces: of the larger vocabulary.
        known: what they were known by when the run was started, or None for a run that begins.

    Raises:
        errors.FileError: a file cannot be read.
        errors.TrainingError: they are others.
    """
    entries = tuple(
        filler.Entry(
            src=entry.src,
            tgt=entry.tgt,
            tsv=entry.tsv,
            jsonl=entry.jsonl,
            alignments=entry.alignments,
            mono=entry.mono,
            tags=config.data.tags_of(entry),
        )
        for entry in config.data.train
    )
    layout = cache.Layout.fitting(
        num_pieces,
        has_text=config.tokenizer.sampling != "none",
        has_links=config.training.guided_alignment_weight > 0,
    )
    key = cache.key_of(entries, tokenizer_dir, kept, layout)
    if known not in {None, key}:
        raise errors.TrainingError(
            f"{config.run_dir}: the training corpora are not those that the run was started "
            "with. Put the files back to resume it, or start anew with --fresh."
        )
    return entries, layout, key


def _open_corpus(
    config: schema.Config,
    tokenizer_dir: Path,
    kept: filters.PairFilter,
    num_pieces: int,
    *,
    fingerprint: str | None,
    fills: bool,
) -> corpus.MappedCorpus:
    """Returns the training corpus from its token cache; see `prepare`."""
    entries, layout, key = identify(config, tokenizer_dir, kept, num_pieces, fingerprint)
    if config.data.cache_dir is None:
        parent = tokenizer_dir.parent / "cache"
        if fills:
            cache.remove_others(parent, keep=corpus.folder_of(parent, key).name)
    else:
        parent = Path(config.data.cache_dir)
    work = filler.Work(corpus.folder_of(parent, key), entries, tokenizer_dir, kept, layout)
    return corpus.open_cache(work, key, fills=fills)


def _sampler(
    config: schema.Config,
    src_tokenizer: tokenizer.Tokenizer,
    tgt_tokenizer: tokenizer.Tokenizer,
    kept: filters.PairFilter,
) -> sampling.Sampler | None:
    """Returns what draws pieces and damage for training batches, or None.

    Raises:
        errors.ConfigError: a ready tokenizer knows one way only, or lacks a tag or the mask.
    """
    settings, data = config.tokenizer, config.data
    src_tokenizer.ids_of(data.reserved_pieces)
    if settings.sampling == "none" and not any(entry.mono for entry in data.train):
        return None
    found = {
        side: subwords.SubwordSampler(
            pieces, alpha=settings.sampling_alpha, nbest=settings.sampling_nbest
        )
        for side, pieces in (("src", src_tokenizer), ("tgt", tgt_tokenizer))
        if settings.sampling in {side, "both"}
    }
    return sampling.Sampler(
        found.get("src"),
        found.get("tgt"),
        kept,
        config.seed,
        sources=[
            sampling.Source(len(data.tags_of(entry)), entry.mono is not None)
            for entry in data.train
        ],
        noise=make_noise(config, src_tokenizer),
    )


def make_noise(config: schema.Config, src_tokenizer: tokenizer.Tokenizer) -> noise.Noise | None:
    """Returns what damages monolingual text; None where there is none."""
    if not config.data.has_mono:
        return None
    (mask,) = src_tokenizer.ids_of([corpora.MASK])
    return noise.Noise(src_tokenizer.vocab, mask, config.data.noise)


def _mix(data: schema.DataConfig) -> mixing.Mix | None:
    """Returns what says how much of an epoch each corpus has; None for all pairs once."""
    if data.sampling_temperature is not None:
        pairs = [data.pair_of(entry) for entry in data.train]
        groups = tuple(pairs.index(pair) for pair in pairs)
        return mixing.Tempered(data.sampling_temperature, groups)
    return [entry.weight for entry in data.train if entry.weight is not None] or None


def longest_pair(config: schema.Config, model: seq2seq.Seq2Seq) -> tuple[int, int]:
    """Returns the source and target tokens that no training pair has more of, EOS included."""
    longest = config.data.max_length
    return (
        min(longest, model.max_src_positions or longest),
        min(longest, model.max_tgt_positions or longest, config.training.batch_tokens),
    )


def pair_filter(config: schema.Config, model: seq2seq.Seq2Seq) -> filters.PairFilter:
    """Returns the filter, which also drops what no batch or no learned position could hold."""
    return filters.PairFilter(*longest_pair(config, model), config.data.max_length_ratio)
