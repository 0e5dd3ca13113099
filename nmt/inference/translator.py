"""Text in, text out: tokenise, sort, batch, search, restore the order."""

import bisect
import dataclasses
from collections.abc import Iterator, Sequence

import torch

from nmt import errors
from nmt.config import schema
from nmt.data import batches
from nmt.evaluation import mbr
from nmt.inference import explaining, outcomes, requests, shortlists, splitting
from nmt.inference import texts as texts_of
from nmt.models import base, seq2seq
from nmt.runtime import device as devices
from nmt.runtime import memory
from nmt.search import beam, constraints, forced, narrowed, rules
from nmt.search import settings as search_settings

# Constraints of a batch may make tables, and steps, of so many numbers (see `constraints`).
MAX_ENTRIES = 1 << 27
# A model that finds so many ways to spell what is to be avoided will find more.
MAX_ROUNDS = 20
# What a line is told that is too much by itself.
TOO_LARGE = "does not fit in memory. Shorten the line, or lower beam_size or nbest."


Texts = texts_of.Texts  # what a translator takes, by the name that it has here


@dataclasses.dataclass(frozen=True)
class _Line:
    """A line on its way to the search: its request, in text and in ids, and its place."""

    index: int
    asked: requests.Request
    planned: search_settings.Request
    source: list[int]


class Translator:
    """A model with its tokenizers, ready to translate lines.

    Attributes:
        num_cut: source lines so far that were longer than the limit and were cut.
        num_split: those that were translated in parts instead.
        default: what is asked of a line of which nothing else is said.
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
        shortlist: shortlists.Shortlist | None = None,
        risk: mbr.Settings | None = None,
        with_scores: bool = True,
    ) -> None:
        """Takes the parts.

        Args:
            model: on the device, in evaluation mode.
            texts: the tokenizers.
            decoding: search settings and batch size.
            arithmetic: device and precision.
            num_best: translations per line.
            batch_sentences: sentences of a batch, or None for a budget of tokens.
            shortlist: what each sentence may be translated with, for one model on CPU; None for the
                whole vocabulary.
            risk: how minimum Bayes risk chooses among the candidates of a line; None for the
                best by score.
            with_scores: whether somebody looks at the score of a single translation, which after a
                search in a shortlist takes another pass.

        Raises:
            errors.UsageError: the settings do not fit each other or the model.
        """
        self._model = model
        self._shortlist = shortlist
        self._texts = texts
        self._explainer = explaining.Explainer(texts)
        self._arithmetic = arithmetic
        self._batch_sentences = batch_sentences
        self._batch_tokens = decoding.batch_tokens
        self._planner = requests.Planner(model, texts.tgt)
        self._risk = risk
        self._with_scores = with_scores or risk is not None
        self.default = requests.Request("", decoding, num_best)
        self._plan(self.default)
        limits = [decoding.max_src_tokens, model.max_src_positions]
        self._max_src_tokens = min(limit for limit in limits if limit is not None)
        ids = texts.tgt.vocab
        self._ids = beam.SpecialIds(
            bos=ids.bos_id,
            eos=ids.eos_id,
            pad=ids.pad_id,
            continuing=self._planner.continuing,
        )
        self.num_cut = self.num_split = 0

    def check(self, request: requests.Request, *, with_constraints: bool = False) -> None:
        """Refuses a request before any work, if it is impossible.

        Args:
            request: what is asked of every line.
            with_constraints: whether lines will have constraints.

        Raises:
            errors.UsageError: an option is impossible, or does not go with others.
        """
        if with_constraints:
            requests.check_constraints(self._plan(request).settings)
        self._plan(request)

    def readable(self, request: requests.Request) -> str:
        """Returns as much of the text of a request as the model reads.

        A text that is to be split is read as a whole.
        """
        text = request.text
        if not text.strip():
            return text
        room = self._room(request.tgt_lang)
        # No piece is shorter than a byte.
        if request.decoding.long == "split" or len(text.encode(errors="replace")) < room:
            return text

        def is_within(length: int) -> bool:
            return len(self._texts.src.encode(text[:length])) <= room

        if is_within(len(text)):
            return text
        # Pieces say little of the text that they were cut from: they may be lowercase, or bytes.
        lengths = range(len(text))
        return text[: bisect.bisect_left(lengths, True, key=lambda n: not is_within(n)) - 1]

    def _room(self, tgt_lang: str | None) -> int:
        """Returns how many source tokens there may be beside EOS and tags."""
        return max(self._max_src_tokens - 1 - len(self._texts.tags(tgt_lang)), 1)

    def translate(
        self, lines: Sequence[str], tgt_lang: str | None = None
    ) -> list[list[outcomes.Translation]]:
        """Returns `num_best` translations of each line, best first; blank lines stay blank.

        Args:
            lines: text without line ends.
            tgt_lang: their target language; None for the one that is meant where nothing is said.

        Raises:
            errors.UsageError: the model has no such target language.
        """
        asked = [dataclasses.replace(self.default, text=line, tgt_lang=tgt_lang) for line in lines]
        found = self.answer(asked)
        for outcome in found:
            if outcome.error is not None:
                raise errors.UsageError(outcome.error)
        return [outcome.translations for outcome in found]

    def answer(self, asked: Sequence[requests.Request]) -> list[outcomes.Outcome]:
        """Returns what becomes of each request; one that is impossible harms no other.

        Args:
            asked: each with settings of its own, but that the limit of the source and the size of
                batches are those of this translator.
        """
        parts: list[list[requests.Request]] = []
        refused: dict[int, outcomes.Outcome] = {}
        for index, request in enumerate(asked):
            try:
                parts.append(self._parts(request))
            except errors.UsageError as error:
                parts.append([])
                refused[index] = outcomes.Outcome([], str(error))
        found = iter(self._answer([part for several in parts for part in several]))
        return [
            refused.get(index)
            or outcomes.joined([next(found) for _ in several], asked[index].avoid)
            for index, several in enumerate(parts)
        ]

    def _parts(self, request: requests.Request) -> list[requests.Request]:
        """Returns the request, or one for each part of its text where that is to be split.

        Raises:
            errors.UsageError: it is to be split, but asks for what parts cannot have.
        """

        def count(several: Sequence[str]) -> list[int]:
            return [len(ids) for ids in self._texts.src.encode_batch(several)]

        text = request.text
        if not text.strip():
            return [request]
        room = self._room(request.tgt_lang)
        if request.decoding.long == "truncate" or count([text])[0] <= room:
            return [request]
        outcomes.check_parts(request)
        self.num_split += 1
        return [
            dataclasses.replace(request, text=part) for part in splitting.split(text, room, count)
        ]

    def _plan(self, request: requests.Request) -> search_settings.Request:
        """Returns what the search is asked for: with `risk`, for candidates to choose among.

        Raises:
            errors.UsageError: an option is impossible.
        """
        requests.check_num_best(request.num_best)
        if self._risk is not None:
            wanted = outcomes.num_candidates(self._risk, request.decoding, request.num_best)
            request = dataclasses.replace(request, num_best=wanted)
        return self._planner.plan(request)

    def _answer(self, asked: Sequence[requests.Request]) -> list[outcomes.Outcome]:
        """Does what `answer` says, with lines that need not be split."""
        answers: list[outcomes.Outcome] = []
        waiting: dict[tuple[object, ...], list[_Line]] = {}
        sources = self._encode(asked)
        for index, (request, source) in enumerate(zip(asked, sources, strict=True)):
            try:
                planned = self._plan(request)
                if self._texts.languages and source:
                    tags = self._texts.tags(request.tgt_lang)
                    planned = dataclasses.replace(planned, num_tags=len(tags))
            except errors.UsageError as error:
                answers.append(outcomes.Outcome([], str(error)))
                continue
            answers.append(outcomes.Outcome([outcomes.blank(request)] * request.num_best))
            if source:
                # A search is of one width and kind; constraints would slow down those without.
                has_constraints = bool(planned.constraints)
                kind = (*planned.settings.kind, has_constraints, self._is_narrowed(planned))
                waiting.setdefault(kind, []).append(_Line(index, request, planned, source))
        for lines in waiting.values():
            # Longest first: what does not fit in memory fails at once, and padding is small.
            lines.sort(key=lambda line: (-len(line.source), line.index))
            for batch in self._cut(lines):
                found = memory.in_halves(
                    batch,
                    self._search,
                    self._arithmetic.device,
                    lambda line: outcomes.Outcome([], TOO_LARGE),
                )
                for line, outcome in zip(batch, found, strict=True):
                    answers[line.index] = outcome
        return answers

    def _encode(self, asked: Sequence[requests.Request]) -> list[list[int]]:
        """Returns source ids with EOS, cut to the limit; empty for blank lines."""
        eos, limit = self._texts.src.vocab.eos_id, self._max_src_tokens
        sources: list[list[int]] = []
        lines = [request.text for request in asked]
        encoded = self._texts.encode_sources(lines, [request.tgt_lang for request in asked])
        for ids in encoded:
            if not ids:
                sources.append([])
                continue
            self.num_cut += len(ids) + 1 > limit
            sources.append([*ids[: limit - 1], eos])
        return sources

    def _cut(self, lines: Sequence[_Line]) -> Iterator[Sequence[_Line]]:
        """Cuts sorted lines into batches by sentences or, padding included, by tokens."""
        budget = max(self._batch_tokens // lines[0].planned.settings.num_hypotheses, 1)
        begin = 0
        while begin < len(lines):
            size = self._batch_sentences or max(budget // len(lines[begin].source), 1)
            while size > 1 and _num_entries(lines[begin : begin + size]) > MAX_ENTRIES:
                size //= 2
            yield lines[begin : begin + size]
            begin += size

    def _search(self, lines: Sequence[_Line]) -> list[outcomes.Outcome]:
        """Returns the outcomes of one batch."""
        device = self._arithmetic.device
        tensors = [torch.tensor(line.source) for line in lines]
        src_BS, src_mask_BS = batches.pad(tensors, self._texts.src.vocab.pad_id)
        src_BS, src_mask_BS = src_BS.to(device), src_mask_BS.to(device)
        with self._arithmetic.autocast():
            found = self._found(lines, src_BS, src_mask_BS)
            traced = [i for i, line in enumerate(lines) if line.asked.is_traced and found[i]]
            traces: dict[int, forced.Trace] = {}
            if traced:
                rows = torch.tensor(traced, device=device)
                trace = forced.trace(
                    self._model,
                    src_BS[rows],
                    src_mask_BS[rows],
                    [[one.tokens for one in found[i]] for i in traced],
                    self._ids,
                    with_attention=any(lines[i].asked.wants_attention for i in traced),
                ).on_host()
                traces = {i: trace.of(place) for place, i in enumerate(traced)}
        return [
            self._outcome(line, own, traces.get(i))
            for i, (line, own) in enumerate(zip(lines, found, strict=True))
        ]

    def _found(
        self, lines: Sequence[_Line], src_BS: torch.Tensor, src_mask_BS: torch.Tensor
    ) -> list[list[beam.Hypothesis]]:
        """Searches until nothing is found that spells an avoided phrase in another way."""
        planned = [line.planned for line in lines]
        found = self._first_found(planned, src_BS, src_mask_BS)
        waiting = [i for i, line in enumerate(lines) if line.planned.avoid]
        for round_ in range(MAX_ROUNDS):
            again = []
            for i in waiting:
                tokens = [one.tokens for one in found[i]]
                spellings = self._planner.other_spellings(planned[i], tokens)
                if spellings:
                    avoid = (*planned[i].avoid, *sorted(spellings))
                    planned[i] = dataclasses.replace(planned[i], avoid=avoid)
                    again.append(i)
            if not again:
                break
            if round_ == MAX_ROUNDS - 1:
                for i in again:
                    found[i] = []
                break
            rows = torch.tensor(again, device=src_BS.device)
            changed = [planned[i] for i in again]
            searched = beam.search(self._model, src_BS[rows], src_mask_BS[rows], changed, self._ids)
            for i, own in zip(again, searched, strict=True):
                found[i] = own
            waiting = again
        return found

    def _first_found(
        self,
        planned: Sequence[search_settings.Request],
        src_BS: torch.Tensor,
        src_mask_BS: torch.Tensor,
    ) -> list[list[beam.Hypothesis]]:
        """Searches once, among the tokens of the shortlist if there is one for these lines."""
        if not self._is_narrowed(planned[0]):
            return beam.search(self._model, src_BS, src_mask_BS, planned, self._ids)
        assert isinstance(self._model, seq2seq.Seq2Seq), "a shortlist is for one model"
        assert self._shortlist is not None, "lines are narrowed by it"
        model = narrowed.Narrowed(self._model, self._shortlist.allowed(src_BS))
        searched = beam.search(model, src_BS, src_mask_BS, planned, self._ids)
        found = [
            [dataclasses.replace(one, tokens=model.original(i, one.tokens)) for one in hypotheses]
            for i, hypotheses in enumerate(searched)
        ]
        if self._with_scores or any(one.settings.num_best > 1 for one in planned):
            return narrowed.rescored(self._model, src_BS, src_mask_BS, planned, found, self._ids)
        return found

    def _is_narrowed(self, planned: search_settings.Request) -> bool:
        """Returns whether a line is searched for in its shortlist; what it asks for may not be there."""
        return self._shortlist is not None and not planned.names_tokens

    def _outcome(
        self, line: _Line, found: Sequence[beam.Hypothesis], trace: forced.Trace | None
    ) -> outcomes.Outcome:
        """Returns exactly `num_best` translations; what the search did not find is empty."""
        for name in ("constraints", "avoid"):
            if not found and getattr(line.planned, name):
                return outcomes.Outcome(
                    [], f"{name}: cannot be met beside the other options of this line."
                )
        translations = [
            outcomes.Translation(
                self._texts.tgt.decode(list(one.tokens)),
                one.score,
                one.log_probability,
                one.tokens,
            )
            for one in found
        ]
        if trace is not None:
            translations = [
                self._explainer.explain(line.asked, len(line.source), one, trace.of(place))
                for place, one in enumerate(translations)
            ]
        if self._risk is not None and translations:
            translations = outcomes.by_utility(translations, self._risk)
        wanted = line.asked.num_best
        missing = outcomes.missing(line.asked)
        return outcomes.Outcome((translations + [missing] * wanted)[:wanted])


def _num_entries(lines: Sequence[_Line]) -> int:
    planned = [line.planned for line in lines]
    return max(constraints.num_entries(planned), rules.num_entries(planned))
