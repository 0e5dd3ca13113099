"""Text in, text out: tokenise, sort, batch, search, restore the order."""

import dataclasses
from collections.abc import Iterator, Sequence

import torch

from nmt import errors
from nmt.config import schema
from nmt.data import batches
from nmt.evaluation import mbr
from nmt.inference import splitting
from nmt.models import base
from nmt.runtime import device as devices
from nmt.search import beam
from nmt.search import settings as search_settings
from nmt.text import tokenizer


@dataclasses.dataclass(frozen=True)
class Translation:
    """One translation of one line.

    Attributes:
        text: the translation, without line breaks.
        score: log-probability over the length penalty; higher is better. 0 for a blank line, -inf
            where the search found nothing.
        log_probability: sum over the target tokens, EOS included.
        tokens: target ids, without BOS and EOS.
        utility: the expected one in percent, where minimum Bayes risk chose; None elsewhere.
    """

    text: str
    score: float = 0.0
    log_probability: float = 0.0
    tokens: tuple[int, ...] = ()
    utility: float | None = None


@dataclasses.dataclass(frozen=True)
class Texts:
    """The tokenizers of the two sides."""

    src: tokenizer.Tokenizer
    tgt: tokenizer.Tokenizer


class Translator:
    """A model with its tokenizers, ready to translate lines.

    Attributes:
        num_cut: source lines so far that were longer than the limit and were cut.
        num_split: those that were translated in parts instead.
    """

    def __init__(
        self,
        model: base.Model,
        texts: Texts,
        decoding: schema.DecodingConfig,
        arithmetic: devices.Arithmetic,
        *,
        num_best: int = 1,
        batch_sentences: int | None = None,
        risk: mbr.Settings | None = None,
    ) -> None:
        """Takes the parts.

        Args:
            model: on the device, in evaluation mode.
            texts: the tokenizers.
            decoding: search settings and batch size.
            arithmetic: device and precision.
            num_best: translations per line.
            batch_sentences: sentences of a batch, or None for a budget of tokens.
            risk: how minimum Bayes risk chooses among the candidates of a line; None for the
                best by score.

        Raises:
            errors.UsageError: the settings do not fit each other or the model.
        """
        self._model = model
        self._texts = texts
        self._arithmetic = arithmetic
        self._batch_sentences = batch_sentences
        self._batch_tokens = max(decoding.batch_tokens // decoding.beam_size, 1)
        self._num_best = num_best
        self._risk = risk
        num_candidates = num_best if risk is None else _num_candidates(risk, decoding, num_best)
        self._settings = _search_settings(decoding, num_candidates, model.max_tgt_positions)
        limits = [decoding.max_src_tokens, model.max_src_positions]
        self._max_src_tokens = min(limit for limit in limits if limit is not None)
        ids = texts.tgt.vocab
        self._ids = beam.SpecialIds(bos=ids.bos_id, eos=ids.eos_id, pad=ids.pad_id)
        self._long = decoding.long
        self.num_cut = self.num_split = 0

    def translate(self, lines: Sequence[str]) -> list[list[Translation]]:
        """Returns `num_best` translations of each line, best first; blank lines stay blank.

        Args:
            lines: text without line ends.
        """
        if self._long == "truncate":
            return self._translate(lines)
        parts = [self._parts(line) for line in lines]
        found = iter(self._translate([part for several in parts for part in several]))
        return [_joined([next(found) for _ in several]) for several in parts]

    def _parts(self, line: str) -> list[str]:
        """Returns the line, or what it is cut into where it is too long."""

        def count(several: Sequence[str]) -> list[int]:
            return [len(ids) for ids in self._texts.src.encode_batch(several)]

        room = max(self._max_src_tokens - 1, 1)  # beside EOS
        if not line.strip() or count([line])[0] <= room:
            return [line]
        self.num_split += 1
        return splitting.split(line, room, count)

    def _translate(self, lines: Sequence[str]) -> list[list[Translation]]:
        """Returns what `translate` does, without splitting."""
        results: list[list[Translation]] = [[Translation("")] * self._num_best for _ in lines]
        sources = self._encode(lines)
        # Longest first: what does not fit in memory fails at once, and padding is small.
        order = sorted(
            (index for index, ids in enumerate(sources) if ids),
            key=lambda index: (-len(sources[index]), index),
        )
        for chosen in self._cut([len(source) for source in sources], order):
            found = self._search([sources[index] for index in chosen])
            for index, hypotheses in zip(chosen, found, strict=True):
                results[index] = self._texts_of(hypotheses)
        return results

    def _encode(self, lines: Sequence[str]) -> list[list[int]]:
        """Returns source ids with EOS, cut to the limit; empty for blank lines."""
        eos, limit = self._texts.src.vocab.eos_id, self._max_src_tokens
        sources: list[list[int]] = []
        for line, ids in zip(lines, self._texts.src.encode_batch(lines), strict=True):
            if not ids or not line.strip():
                sources.append([])
                continue
            if len(ids) + 1 > limit:
                self.num_cut += 1
            sources.append([*ids[: limit - 1], eos])
        return sources

    def _cut(self, lengths: Sequence[int], order: Sequence[int]) -> Iterator[list[int]]:
        """Cuts sorted lines into batches by sentences or, padding included, by tokens."""
        begin = 0
        while begin < len(order):
            size = self._batch_sentences or max(self._batch_tokens // lengths[order[begin]], 1)
            yield list(order[begin : begin + size])
            begin += size

    def _search(self, sources: Sequence[Sequence[int]]) -> list[list[beam.Hypothesis]]:
        tensors = [torch.tensor(source) for source in sources]
        src_BS, src_mask_BS = batches.pad(tensors, self._texts.src.vocab.pad_id)
        device = self._arithmetic.device
        with self._arithmetic.autocast():
            return beam.search(
                self._model, src_BS.to(device), src_mask_BS.to(device), self._settings, self._ids
            )

    def _texts_of(self, hypotheses: Sequence[beam.Hypothesis]) -> list[Translation]:
        """Returns exactly `num_best` translations; what the search did not find is empty."""
        found = [
            Translation(
                self._texts.tgt.decode(list(hypothesis.tokens)),
                hypothesis.score,
                hypothesis.log_probability,
                hypothesis.tokens,
            )
            for hypothesis in hypotheses
        ]
        if self._risk is not None and found:
            found = _by_utility(found, self._risk)
        missing = Translation("", score=float("-inf"), log_probability=float("-inf"))
        return (found + [missing] * self._num_best)[: self._num_best]


def _joined(parts: Sequence[Sequence[Translation]]) -> list[Translation]:
    """Returns the translations of a line from those of its parts: the n-th of each, with a space between.

    Log-probabilities and scores are summed, since parts are translated on their own; utilities, which
    are percents, are meant.
    """
    if len(parts) == 1:
        return list(parts[0])
    joined = []
    for row in zip(*parts, strict=True):
        utilities = [found.utility for found in row if found.utility is not None]
        joined.append(
            Translation(
                " ".join(found.text for found in row if found.text),
                sum(found.score for found in row),
                sum(found.log_probability for found in row),
                tuple(token for found in row for token in found.tokens),
                sum(utilities) / len(utilities) if utilities else None,
            )
        )
    return joined


def _by_utility(found: Sequence[Translation], risk: mbr.Settings) -> list[Translation]:
    """Returns candidates in the order of their expected utility, whichever way they were made."""
    utilities = mbr.expected_utilities(
        [candidate.text for candidate in found],
        [candidate.log_probability for candidate in found],
        risk,
    )
    return [
        dataclasses.replace(found[place], utility=utilities[place])
        for place in mbr.ranking(utilities)
    ]


def _num_candidates(risk: mbr.Settings, decoding: schema.DecodingConfig, num_best: int) -> int:
    wanted = risk.num_candidates or decoding.beam_size
    if wanted > decoding.beam_size:
        raise errors.UsageError(
            f"--mbr-candidates: more than the beam is wide (given: {wanted}, beam "
            f"{decoding.beam_size}). Raise --beam-size, or lower --mbr-candidates."
        )
    if num_best > wanted:
        raise errors.UsageError(
            f"--nbest: more than the candidates of --mbr (given: {num_best} of {wanted}). "
            "Lower it, or raise --mbr-candidates and --beam-size."
        )
    return wanted


def _search_settings(
    decoding: schema.DecodingConfig, num_best: int, max_positions: int | None
) -> search_settings.SearchSettings:
    if num_best < 1:
        raise errors.UsageError(f"--nbest: wants at least 1 (given: {num_best}).")
    if num_best > decoding.beam_size:
        raise errors.UsageError(
            f"--nbest: more than the beam is wide (given: {num_best}, beam {decoding.beam_size}). "
            "Raise --beam-size, or lower --nbest."
        )
    if max_positions is not None and decoding.min_length >= max_positions:
        raise errors.UsageError(
            f"decoding.min_length: this model has {max_positions} target positions "
            f"(given: {decoding.min_length}). Lower it."
        )
    return search_settings.SearchSettings(
        beam_size=decoding.beam_size,
        num_best=num_best,
        length_penalty=decoding.length_penalty,
        min_length=decoding.min_length,
        max_length=decoding.max_length,
        max_length_ratio=decoding.max_length_ratio,
        patience=decoding.patience,
        exact_stop=decoding.exact_stop,
    )
