"""CTranslate2 in the place of our own search: text in, text out, line by line.

Lines, blank ones, cutting and order are as in `inference.translator`. The search is CTranslate2's,
asked for what it means as we do: plain sums of log-probabilities. BOS and padding, which our search
forbids, it could be told to suppress as well, but it would then give other probabilities to all other
tokens; a model that was trained never produces them. Sorting by length, cutting into
batches and restoring the order is left to it.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nmt import errors
from nmt.config import schema
from nmt.inference import loading, outcomes, requests
from nmt.interop import ctranslate2_folder, ctranslate2_spec
from nmt.search import settings


class Engine:
    """An exported model, ready to translate lines.

    Attributes:
        default: what is asked of a line of which nothing else is said.
        num_cut: source lines so far that were longer than the limit and were cut.
    """

    def __init__(
        self,
        path: Path,
        decoding: schema.DecodingConfig,
        positions: tuple[int | None, int | None],
        *,
        num_best: int = 1,
        batch_sentences: int | None = None,
        device: torch.device,
    ) -> None:
        """Loads the model.

        Args:
            path: an exported folder that was verified.
            decoding: search settings and batch size.
            positions: how many positions of source and target the model can tell apart.
            num_best: translations per line.
            batch_sentences: sentences of a batch, or None for a budget of tokens.
            device: cpu or cuda.

        Raises:
            errors.UsageError: a setting means something else to CTranslate2 or does not fit.
            errors.ModelError: CTranslate2 cannot load the model.
        """
        check(decoding, num_best, positions[1])
        self._decoding, self._num_best = decoding, num_best
        limits = [decoding.max_src_tokens, positions[0]]
        self._max_src_tokens = min(limit for limit in limits if limit is not None)
        limits = [decoding.max_length, positions[1]]
        self._max_length = min(limit for limit in limits if limit is not None)
        budget = max(decoding.batch_tokens // decoding.beam_size, 1)
        self._batch: dict[str, Any] = {"max_batch_size": budget, "batch_type": "tokens"}
        if batch_sentences is not None:
            self.set_batch_sentences(batch_sentences)
        self._texts = loading.load_texts(path)
        self._ids = {piece: index for index, piece in enumerate(self._texts.tgt.vocab.pieces)}
        package = ctranslate2_spec.package()
        try:
            self._model = package.Translator(
                str(path),
                device=device.type,
                device_index=device.index or 0,
                intra_threads=torch.get_num_threads(),
            )
        except (RuntimeError, ValueError) as error:
            raise errors.ModelError(
                f"{path}: CTranslate2 {package.__version__} cannot load it "
                f"({str(error).splitlines()[0]}). Export the model again with this version."
            ) from error
        self.default = requests.Request("", decoding, num_best)
        self.num_cut = self.num_split = 0

    def check(self, request: requests.Request, *, with_constraints: bool = False) -> None:
        """Refuses what this engine cannot do.

        Raises:
            errors.UsageError: a request has more than a text.
        """
        if with_constraints or request != dataclasses.replace(self.default, text=request.text):
            raise errors.UsageError(
                "CTranslate2 takes the same settings for all lines, without prefixes and constraints. "
                "Leave them out, or take --engine nmt."
            )

    def readable(self, request: requests.Request) -> str:
        """Returns the whole text: what is made of it, terms, this engine has not."""
        return request.text

    def answer(self, asked: Sequence[requests.Request]) -> list[outcomes.Outcome]:
        """Returns the translations of each request.

        Raises:
            errors.UsageError: see `check`.
        """
        for request in asked:
            self.check(request)
        found = self.translate([request.text for request in asked])
        return [outcomes.Outcome(translations) for translations in found]

    def set_batch_sentences(self, number: int) -> None:
        """Sets the sentences of a batch, at least 1."""
        self._batch = {"max_batch_size": number, "batch_type": "examples"}

    def translate(self, lines: Sequence[str]) -> list[list[outcomes.Translation]]:
        """Returns `num_best` translations of each line, best first; blank lines stay blank.

        Args:
            lines: text without line ends.
        """
        blank = [outcomes.Translation("")] * self._num_best
        results = [blank for _ in lines]
        sources = self._encode(lines)
        chosen = [index for index, source in enumerate(sources) if source is not None]
        if not chosen:
            return results
        found = self._model.translate_batch(
            [sources[index] for index in chosen],
            **self._batch,
            beam_size=self._decoding.beam_size,
            num_hypotheses=self._num_best,
            length_penalty=0.0,
            min_decoding_length=self._decoding.min_length,
            max_decoding_length=self._max_length,
            max_input_length=0,  # cut already
            return_scores=True,
        )
        for index, result in zip(chosen, found, strict=True):
            results[index] = self._texts_of(result)
        return results

    def _encode(self, lines: Sequence[str]) -> list[list[str] | None]:
        """Returns source pieces without EOS, which the model adds; None for blank lines."""
        pieces, limit = self._texts.src.vocab.pieces, self._max_src_tokens
        sources: list[list[str] | None] = []
        for line, ids in zip(lines, self._texts.src.encode_batch(lines), strict=True):
            if not ids or not line.strip():
                sources.append(None)
                continue
            if len(ids) + 1 > limit:
                self.num_cut += 1
            sources.append([pieces[token] for token in ids[: limit - 1]])
        return sources

    def _texts_of(self, result: Any) -> list[outcomes.Translation]:
        """Returns exactly `num_best` translations; what the search did not find is empty."""
        found = []
        for hypothesis, log_probability in zip(result.hypotheses, result.scores, strict=True):
            # EOS counts; at the limit CTranslate2 puts another token in its place.
            tokens = tuple(self._ids[piece] for piece in hypothesis[: self._max_length - 1])
            text = self._texts.tgt.decode(list(tokens))
            # Greedy search chooses nothing by the penalty, but a score is what it is elsewhere.
            penalty = settings.penalty(len(tokens) + 1, self._decoding.length_penalty)
            score = log_probability / float(penalty)
            found.append(outcomes.Translation(text, score, log_probability, tokens))
        missing = outcomes.Translation("", score=float("-inf"), log_probability=float("-inf"))
        return found + [missing] * (self._num_best - len(found))


def check(decoding: schema.DecodingConfig, num_best: int, max_positions: int | None) -> None:
    """Refuses settings that CTranslate2 has not, or that it understands differently.

    Args:
        decoding: search settings.
        num_best: translations per line.
        max_positions: target positions that the model can tell apart, or None.

    Raises:
        errors.UsageError: see `docs/export.md`.
    """
    default = schema.DecodingConfig()
    if decoding.length_penalty != 0.0 and decoding.beam_size > 1:
        raise errors.UsageError(
            "--length-penalty: means something else to CTranslate2, which divides by the length to "
            f"this power (given: {decoding.length_penalty}). Take 0, or --engine nmt."
        )
    if decoding.patience != default.patience:
        raise errors.UsageError(
            "--patience: without a length penalty CTranslate2's search ends by a rule of its own "
            f"(given: {decoding.patience}). Leave it out, or take --engine nmt."
        )
    if decoding.exact_stop and num_best > 1:
        raise errors.UsageError(
            "--exact-stop: CTranslate2 is exact for the best translation only "
            f"(given: --nbest {num_best}). Leave it out, or take --engine nmt."
        )
    if num_best > decoding.beam_size:
        raise errors.UsageError(
            f"--nbest: more than the beam is wide (given: {num_best}, beam {decoding.beam_size}). "
            "Raise --beam-size, or lower --nbest."
        )
    if max_positions is not None and decoding.max_length > max_positions:
        raise errors.UsageError(
            f"--max-length: this export tells {max_positions} target positions apart "
            f"(given: {decoding.max_length}). Lower it, or raise decoding.max_length in the model's "
            "configuration and export it again."
        )


def load(
    path: Path,
    decoding: schema.DecodingConfig | None = None,
    *,
    num_best: int = 1,
    batch_sentences: int | None = None,
    device: str = "auto",
) -> Engine:
    """Loads an exported folder, after checking every file against its checksum.

    Args:
        path: the folder.
        decoding: search settings; None for those of the folder.
        num_best: translations per line.
        batch_sentences: sentences of a batch, or None for a budget of tokens.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        errors.ModelError: a file is missing, torn, altered, or does not load.
        errors.UsageError: a setting means something else to CTranslate2, or the device is not there.
    """
    note = ctranslate2_folder.read(path)
    return Engine(
        path,
        decoding or note.decoding_config(),
        note.positions,
        num_best=num_best,
        batch_sentences=batch_sentences,
        device=resolve(device),
    )


def resolve(name: str) -> torch.device:
    """Returns the device of this name; `auto` is CUDA where CTranslate2 has it, else the CPU.

    Raises:
        errors.UsageError: CTranslate2 does not run there.
    """
    has_cuda = ctranslate2_spec.package().get_cuda_device_count() > 0
    if name == "auto":
        return torch.device("cuda" if has_cuda else "cpu")
    is_cuda = re.fullmatch(r"cuda(:\d+)?", name) is not None
    if name == "cpu" or (is_cuda and has_cuda):
        return torch.device(name)
    raise errors.UsageError(
        f"--device: CTranslate2 does not run there (given: {name}). Take cpu"
        f"{', cuda or cuda:N' if has_cuda else ''}."
    )
