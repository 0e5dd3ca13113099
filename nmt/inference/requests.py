"""What is asked of one line, and its way into the ids that the search works with."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence

from nmt import errors
from nmt.config import schema
from nmt.models import abilities, base
from nmt.runtime import characters
from nmt.search import constraints
from nmt.search import settings as search_settings
from nmt.text import boundaries, tokenizer

# Settings that a planner remembers.
MAX_KNOWN = 1024


@dataclasses.dataclass(frozen=True)
class Request:
    """One line to translate.

    Attributes:
        text: the source, without a line end.
        decoding: the settings of this line.
        num_best: translations wanted.
        target_prefix: what every translation begins with.
        constraints: words or phrases that every translation contains, each as often as it is given.
        avoid: words or phrases that no translation contains.
        tgt_lang: the target language; None for the one that the model's texts mean.
    """

    text: str
    decoding: schema.DecodingConfig
    num_best: int = 1
    target_prefix: str = ""
    constraints: tuple[str, ...] = ()
    avoid: tuple[str, ...] = ()
    tgt_lang: str | None = None

    @property
    def wants_attention(self) -> bool:
        """Whether what is asked for beside the text is made from attention."""
        return self.decoding.alignments or self.decoding.replace_unknown

    @property
    def is_traced(self) -> bool:
        """Whether more is wanted than the search says."""
        return self.decoding.token_scores or self.wants_attention


class Planner:
    """Turns requests into those of the search, and refuses what cannot be.

    Attributes:
        continuing: target ids that go on with the word before them.
    """

    def __init__(self, model: base.Model, tgt: tokenizer.Tokenizer) -> None:
        """Takes the model, for its abilities, and the target tokenizer."""
        self._model = model
        self._tgt = tgt
        self.continuing = boundaries.continuing_ids(tgt.vocab)
        self._known: dict[tuple[schema.DecodingConfig, int], search_settings.SearchSettings] = {}

    def settings(
        self, decoding: schema.DecodingConfig, num_best: int
    ) -> search_settings.SearchSettings:
        """Returns the settings of the search.

        Raises:
            errors.UsageError: they do not fit each other or the model.
        """
        key = (decoding, num_best)
        if key not in self._known:
            if len(self._known) >= MAX_KNOWN:  # each line may have a seed of its own
                self._known.clear()
            _check(decoding, num_best, self._model)
            self._known[key] = _search_settings(decoding, num_best)
        return self._known[key]

    def plan(self, request: Request) -> search_settings.Request:
        """Returns what the search is asked for.

        Raises:
            errors.UsageError: an option is impossible.
        """
        settings = self.settings(request.decoding, request.num_best)
        if not (request.target_prefix or request.constraints or request.avoid or settings.sample):
            return search_settings.Request(settings)
        if request.constraints:
            check_constraints(settings)
        prefix = self._spelled(request.target_prefix, "target_prefix")
        phrases = tuple(self._phrases(request.constraints, "constraints"))
        planned = search_settings.Request(
            settings,
            prefix=tuple(prefix),
            avoid=tuple(self._avoided(request.avoid, self._limit(settings))),
            constraints=phrases,
            closed=self._closed(request.constraints, phrases),
            sample_key=_key(request.text) if settings.sample else 0,
        )
        self._check_room(planned)
        for phrase, text in zip(planned.constraints, request.constraints, strict=True):
            if any(_contains(phrase, avoided) for avoided in planned.avoid):
                raise errors.UsageError(f"constraints: {text!r} is to be avoided, too. Remove one.")
        return planned

    def other_spellings(
        self, planned: search_settings.Request, found: Sequence[search_settings.Phrase]
    ) -> set[search_settings.Phrase]:
        """Returns the tokens with which translations spell what is to be avoided.

        The search forbids a phrase as the tokenizer cuts it; a model may cut it in other ways.

        Args:
            planned: what was searched for.
            found: the tokens of the translations.
        """
        return {
            spelling
            for phrase in planned.avoid
            for tokens in found
            for spelling in self._spellings(phrase, tokens, len(planned.prefix))
        }

    def _spellings(
        self, phrase: search_settings.Phrase, tokens: search_settings.Phrase, num_forced: int
    ) -> Iterator[search_settings.Phrase]:
        """Yields each part of a translation that reads like a phrase, as a word of its own.

        A part behind punctuation without a space has the token before it with it, since its own
        tokens alone may be part of any word.
        """
        text = self._tgt.decode(phrase).strip()
        if not text or text not in self._tgt.decode(tokens):
            return
        for begin in range(len(tokens)):
            is_inside = bool(begin) and tokens[begin] in self.continuing
            before = self._tgt.decode(tokens[:begin]) if is_inside else ""
            if before and boundaries.is_letter(before[-1]):
                continue
            for end in range(begin + 1, len(tokens) + 1):
                own = self._tgt.decode(tokens[begin:end]).strip()
                # Bytes at the end may be the beginning of a character, and shorter with the rest.
                if len(own.rstrip(tokenizer.REPLACEMENT)) > len(text):
                    break
                is_cut = (
                    boundaries.is_letter(text[-1]) and {*tokens[end : end + 1]} & self.continuing
                )
                if own == text and end > num_forced and not is_cut:
                    yield tuple(tokens[begin - is_inside : end])

    def _closed(
        self, texts: Sequence[str], phrases: Sequence[search_settings.Phrase]
    ) -> tuple[bool, ...]:
        """Returns which phrases end in a word that has to end with them."""
        if any(phrase[0] in self.continuing for phrase in phrases):
            return ()
        return tuple(boundaries.ends_word(text.rstrip()[-1]) for text in texts)

    def _phrases(self, texts: Sequence[str], name: str) -> Iterator[search_settings.Phrase]:
        for text in texts:
            phrase = self._spelled(text, name)
            if not phrase or not text.strip():
                raise errors.UsageError(f"{name}: a phrase may not be empty.")
            yield tuple(phrase)

    def _avoided(self, texts: Sequence[str], limit: int) -> Iterator[search_settings.Phrase]:
        """Yields phrases; what cannot be spelled, or is too long, is avoided by that already."""
        for text in texts:
            if not text.strip():
                raise errors.UsageError("avoid: a phrase may not be empty.")
            # A model writes what it has learnt, which is normalised.
            usual = self._tgt.encode(text)
            phrases = [] if self._tgt.vocab.unk_id in usual else [usual]
            exact = self._tgt.encode_exactly(text)
            if exact is not None and exact != usual:
                phrases.append(exact)
            yield from (tuple(phrase) for phrase in phrases if 0 < len(phrase) < limit)

    def _spelled(self, text: str, name: str) -> list[int]:
        ids = self._tgt.encode_exactly(text)
        if ids is None and characters.is_writable(text):
            # Without bytes, as the tokenizer normalises it.
            ids = self._tgt.encode(text)
        if ids is None or self._tgt.vocab.unk_id in ids:
            raise errors.UsageError(
                f"{name}: the target vocabulary cannot spell it (given: {text!r}). "
                "Give known words, or train with tokenizer.byte_fallback."
            )
        return ids

    def _limit(self, settings: search_settings.SearchSettings) -> int:
        """Returns the tokens of the longest translation, EOS included."""
        limits = (settings.max_length, self._model.max_tgt_positions)
        return min(limit for limit in limits if limit is not None)

    def _check_room(self, planned: search_settings.Request) -> None:
        limit = self._limit(planned.settings)
        for name, wanted in (
            ("target_prefix", len(planned.prefix) + 1),
            ("constraints", len(planned.prefix) + constraints.num_missing(planned) + 1),
        ):
            if wanted > limit:
                raise errors.UsageError(
                    f"{name}: wants {wanted} target tokens, more than the longest translation has "
                    f"({limit}). Shorten it, or raise max_length."
                )


def check_num_best(num_best: int) -> None:
    """Refuses numbers of translations that no search can have.

    Raises:
        errors.UsageError: it is one.
    """
    if not 1 <= num_best <= schema.MAX_HYPOTHESES:
        raise errors.UsageError(
            f"--nbest: wants 1 to {schema.MAX_HYPOTHESES:,} (given: {num_best})."
        )


def check_constraints(settings: search_settings.SearchSettings) -> None:
    """Refuses settings that do not go with constraints.

    Raises:
        errors.UsageError: they do not.
    """
    for name, is_used in (
        ("sample", settings.sample),
        ("diversity_groups", settings.diversity_groups > 1),
    ):
        if is_used:
            raise errors.UsageError(f"constraints: do not go with {name}. Remove one of them.")


def _key(text: str) -> int:
    """Returns a number for the random numbers of a source text: 62 bits of its hash."""
    digest = hashlib.blake2b(text.encode("utf-8", errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2


def _contains(tokens: search_settings.Phrase, phrase: search_settings.Phrase) -> bool:
    return any(
        tokens[begin : begin + len(phrase)] == phrase
        for begin in range(len(tokens) - len(phrase) + 1)
    )


def _check(decoding: schema.DecodingConfig, num_best: int, model: base.Model) -> None:
    check_num_best(num_best)
    if num_best > decoding.beam_size and not decoding.sample:
        raise errors.UsageError(
            f"--nbest: more than the beam is wide (given: {num_best}, beam {decoding.beam_size}). "
            "Raise --beam-size, or lower --nbest."
        )
    abilities.check(model, decoding)


def _search_settings(
    decoding: schema.DecodingConfig, num_best: int
) -> search_settings.SearchSettings:
    ignored = decoding.inapplicable()
    names = {field.name for field in dataclasses.fields(search_settings.SearchSettings)}
    given = {
        name: getattr(decoding, name)
        for name in names & set(schema.DecodingConfig.model_fields)
        if name not in ignored
    }
    return search_settings.SearchSettings(num_best=num_best, **given)
