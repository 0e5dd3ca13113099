"""The configured model on a sample: a few real updates, and what they say about the whole run."""

import contextlib
import dataclasses
import itertools
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from nmt.config import schema
from nmt.data import findings, plan, survey_pairs
from nmt.runtime import device as devices
from nmt.training import optimizers, preparation, schedules, update

# The measured part of a probe: whichever comes first, but one update at least.
MAX_SECONDS, MAX_UPDATES = 4.0, 10

# A whole batch is tried if a small one says that it takes at most so long.
MAX_UPDATE_SECONDS = 4.0

# Small batches have so many target tokens at most.
SMALL_TOKENS = 512

# Pairs for so many batches: sorted by length within a pool, fewer would have more padding.
POOL = 40

# What a parameter takes in memory: itself, its gradient, two moments.
TENSORS_OF_PARAMETER = 4

# A factor of noam below this is a rate that was meant as a peak (Vaswani et al. 2017 have 1).
SMALLEST_NOAM = 0.05

# Of the memory of a machine; longer batches than those tried may come.
FULL_SHARE = 0.9


@dataclasses.dataclass(frozen=True)
class Probe:
    """What a few updates showed.

    Attributes:
        num_updates: measured ones.
        batch_tokens: target tokens of their batches at most.
        tokens_per_second: real target tokens.
        padding: share of target positions that are padding.
        seconds_per_update: of a batch of the configured size.
        peak_memory: bytes, or None where it is not known.
        is_whole: whether batches had the configured size; smaller ones need less memory.
    """

    num_updates: int
    batch_tokens: int
    tokens_per_second: float
    padding: float
    seconds_per_update: float
    peak_memory: int | None
    is_whole: bool


@dataclasses.dataclass(frozen=True)
class Extent:
    """What the limits of a run mean for its corpus.

    Attributes:
        epoch_pairs: pairs of an epoch that the filters keep, about.
        epoch_tokens: target tokens of an epoch, EOS included, about.
        epoch_batches: updates of an epoch, about.
        updates: at which the run ends, about; None where only time or patience ends it.
        limit: the setting that ends it.
    """

    epoch_pairs: int
    epoch_tokens: int
    epoch_batches: int
    updates: int | None
    limit: str


def sampled_config(
    config: schema.Config, samples: Sequence[Sequence[survey_pairs.Pair]], folder: Path
) -> schema.Config:
    """Returns the configuration of the same run on a sample, which is written as JSONL.

    Args:
        config: the whole configuration.
        samples: pairs from each training corpus, in order.
        folder: an empty one; also the run folder of the result.
    """
    entries = []
    for number, (entry, pairs) in enumerate(zip(config.data.train, samples, strict=True)):
        if pairs:
            path = folder / f"sample-{number}.jsonl"
            if entry.mono is not None:
                path = folder / f"sample-{number}.txt"
                lines = (f"{pair.src}\n" for pair in pairs)
                files = {"mono": str(path), "jsonl": None}
            else:
                lines = (json.dumps({"src": pair.src, "tgt": pair.tgt}) + "\n" for pair in pairs)
                files = {"jsonl": str(path)}
            path.write_text("".join(lines), encoding="utf-8")
            none = dict.fromkeys(("src", "tgt", "tsv", "alignments"))
            entries.append(entry.model_copy(update={**none, **files}))
    data = config.data.model_copy(update={"train": tuple(entries)})
    return config.model_copy(update={"data": data, "run_dir": str(folder)})


def extent_of(config: schema.Config, num_pairs: int, kept_share: float, mean_tgt: float) -> Extent:
    """Returns how far the limits reach.

    Args:
        config: the whole configuration.
        num_pairs: pairs of all training corpora.
        kept_share: of them that pass the filters.
        mean_tgt: target tokens of a kept pair, EOS included.
    """
    training = config.training
    pairs = round(num_pairs * kept_share)
    tokens = round(pairs * mean_tgt)
    # A batch ends before the pair that no longer fits: half a sentence of room is left.
    per_batch = max(training.batch_tokens - mean_tgt / 2, mean_tgt)
    batches = max(1, math.ceil(tokens / per_batch))
    ends = {}
    if training.max_updates is not None:
        ends["training.max_updates"] = training.max_updates
    if training.max_epochs is not None:
        ends["training.max_epochs"] = training.max_epochs * batches
    if not ends:
        limit = "training.patience" if training.max_minutes is None else "training.max_minutes"
        return Extent(pairs, tokens, batches, None, limit)
    limit = min(ends, key=lambda name: ends[name])
    return Extent(pairs, tokens, batches, ends[limit], limit)


def limit_findings(config: schema.Config, extent: Extent) -> list[findings.Finding]:
    """Returns settings that have no effect before the run ends."""
    training, end, found = config.training, extent.updates, []
    if end is not None and training.warmup_updates >= end:
        what = (
            f"the run ends ({end:,} updates, by {extent.limit}) before the rate has reached its "
            f"peak (given: {training.warmup_updates:,})"
        )
        advice = "Lower it to a tenth of the run or so, or raise the limit."
        found.append(findings.Finding("warning", "training.warmup_updates", what, advice))
    if end is not None and training.validation_interval > end:
        what = (
            f"the run is validated at its end alone ({end:,} updates; "
            f"given: {training.validation_interval:,})"
        )
        advice = "Lower it to see how training goes, and to keep the best weights."
        found.append(findings.Finding("note", "training.validation_interval", what, advice))
    return found


def probe(config: schema.Config, tokenizer_dir: Path, arithmetic: devices.Arithmetic) -> Probe:
    """Trains for some seconds on small batches, and on whole ones if they do not take too long.

    Args:
        config: that of the sample.
        tokenizer_dir: the tokenizers.
        arithmetic: device and precision.

    Returns:
        What was measured; nothing of it is kept.
    """
    wanted = config.training.batch_tokens
    small = min(wanted, max(SMALL_TOKENS, config.data.max_length))
    first = _run(config, tokenizer_dir, arithmetic, small)
    if small == wanted or wanted / first.tokens_per_second > MAX_UPDATE_SECONDS:
        return first
    return _run(config, tokenizer_dir, arithmetic, wanted)


def _run(
    config: schema.Config, tokenizer_dir: Path, arithmetic: devices.Arithmetic, batch_tokens: int
) -> Probe:
    training = config.training.model_copy(update={"batch_tokens": batch_tokens})
    # The tokens of the sample belong beside its tokenizer, not among those of real runs.
    data = config.data.model_copy(update={"cache_dir": None})
    prepared = preparation.prepare(
        config.model_copy(update={"training": training, "data": data}), tokenizer_dir, arithmetic
    )
    # What tokenises the sample beside the probe must not outlive the folder that it is in.
    with contextlib.closing(prepared) as parts:
        updater = update.Updater(
            parts.model,
            optimizers.build(training, parts.model),
            arithmetic,
            smoothing=training.label_smoothing,
            divergence=training.rdrop_weight,
            guidance=training.guided_alignment_weight,
            clip_norm=training.clip_norm,
        )
        width = parts.model.decoder.embedding_size
        tokens = padded = number = 0
        began = 0.0
        devices.reset_peak_memory(arithmetic.device)
        stream = itertools.islice(parts.loader.batches(plan.Position()), MAX_UPDATES + 1)
        for number, batch in enumerate(stream):
            rate = schedules.learning_rate(training, number + 1, width=width)
            updater.update(batch.pieces, batch.num_tokens, rate)
            devices.wait(arithmetic.device)
            if number == 0:
                # The first one makes the optimiser's moments, and more that later ones find ready.
                began = time.perf_counter()
                continue
            tokens, padded = tokens + batch.num_tokens, padded + batch.num_padded
            if time.perf_counter() - began > MAX_SECONDS:
                break
    speed = tokens / max(time.perf_counter() - began, 1e-9)
    return Probe(
        num_updates=number,
        batch_tokens=batch_tokens,
        tokens_per_second=speed,
        padding=1.0 - tokens / padded,
        seconds_per_update=config.training.batch_tokens / speed,
        peak_memory=devices.peak_memory(arithmetic.device),
        is_whole=batch_tokens == config.training.batch_tokens,
    )


def rate_findings(training: schema.TrainingConfig, width: int) -> list[findings.Finding]:
    """Returns a warning where the learning rate is taken for what it is not.

    Args:
        training: the section.
        width: of the decoder's output states.
    """
    if training.schedule != "noam" or training.learning_rate >= SMALLEST_NOAM:
        return []
    peak = schedules.learning_rate(training, max(training.warmup_updates, 1), width=width)
    what = (
        f"is a factor on the curve of noam, and no peak: the rate is {peak:.1e} at most (given: "
        f"{training.learning_rate:g})"
    )
    advice = "Set it to 0.5 to 2, or take schedule inverse_sqrt, of which it is the peak."
    return [findings.Finding("warning", "training.learning_rate", what, advice)]


def pairs_for_probe(config: schema.Config, mean_tgt: float) -> int:
    """Returns how many pairs a probe needs.

    Args:
        config: the whole configuration.
        mean_tgt: target tokens of a pair.
    """
    return math.ceil(POOL * config.training.batch_tokens / mean_tgt)


def describe(config: schema.Config, extent: Extent, measured: Probe) -> list[str]:
    """Returns what was measured, and what it means for the run, as lines of the report.

    Args:
        config: the whole configuration.
        extent: how far its limits reach.
        measured: the probe.
    """
    speed, update_seconds = measured.tokens_per_second, measured.seconds_per_update
    size = "" if measured.is_whole else f" (batches of {measured.batch_tokens:,} tokens)"
    lines = [
        f"speed          {speed:,.0f} target tokens a second, {update_seconds:.2f} s an update, "
        f"{measured.padding:.0%} padding; {measured.num_updates} updates tried{size}"
    ]
    epoch = extent.epoch_tokens / speed
    text = f"time           {_duration(epoch)} an epoch"
    if extent.updates is not None:
        text += f", {_duration(extent.updates * update_seconds)} to {extent.limit}"
    limit = config.training.max_minutes
    if limit is not None:
        updates = round(60.0 * limit / update_seconds)
        if extent.updates is None or updates < extent.updates:
            text += f"; training.max_minutes ends it at update {updates:,} or so"
    lines.append(text + "; validation comes on top")
    if measured.peak_memory is not None:
        least = "" if measured.is_whole else "at least "
        lines.append(f"memory         {least}{measured.peak_memory / 2**30:.2f} GiB at the peak")
    return lines


def memory_findings(measured: Probe, device: torch.device) -> list[findings.Finding]:
    """Returns a warning where a run leaves little memory.

    Args:
        measured: the probe.
        device: where it ran.
    """
    total = devices.total_memory(device)
    if measured.peak_memory is None or total is None:
        return []
    if measured.peak_memory < FULL_SHARE * total:
        return []
    what = f"a batch needs {measured.peak_memory / 2**30:.1f} of {total / 2**30:.1f} GiB of memory"
    advice = "Set training.max_device_tokens below it, or take a larger machine."
    return [findings.Finding("warning", "training.batch_tokens", what, advice)]


def _duration(seconds: float) -> str:
    """Returns a time in words: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
