"""The sections that say what is read and how text becomes pieces; `schema.py` has the others."""

import collections
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pydantic

from nmt import errors
from nmt.config import knobs, noising

Normalization = Literal["nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf", "identity"]

MASK = "<mask>"
ONE_WAY = frozenset({"char", "word"})  # kinds of pieces that cut a text in one way only
LANGUAGE = re.compile(r"\w[\w.-]*")
TAG = re.compile(r"[A-Za-z][\w-]*")
RESERVED_TAGS = frozenset({"mask", "pad", "s", "unk"})

# How pydantic's errors name the two forms of `valid` and `test`; `complaints` takes them out.
ONE, LIST = "<one corpus>", "<list of corpora>"


class Corpus(knobs.Section):
    """Where pairs are read from: two parallel files, a TSV, a JSONL, or a text that is both sides."""

    src: str | None = knobs.knob(None, "file of source lines (.gz, .xz and .zst are read too)")
    tgt: str | None = knobs.knob(None, "file of target lines, parallel to src")
    tsv: str | None = knobs.knob(None, "file with source, tab, target on each line")
    jsonl: str | None = knobs.knob(None, 'file with an object {"src": ..., "tgt": ...} per line')
    mono: str | None = knobs.knob(
        None, "file of text in one language, whose damaged lines are the sources (see data.noise)"
    )
    src_lang: str | None = knobs.knob(
        None, "language of the sources, for names; null = data.src_lang"
    )
    tgt_lang: str | None = knobs.knob(
        None,
        "language of the targets; null = data.tgt_lang. Once a training corpus names one, every "
        "source begins with a tag such as <2de>",
    )
    lang: str | None = knobs.knob(None, "language of mono, like src_lang and tgt_lang in one")

    @pydantic.model_validator(mode="after")
    def _check(self) -> "Corpus":
        parallel = (self.src is not None) + (self.tgt is not None)
        single = sum(name is not None for name in (self.tsv, self.jsonl, self.mono))
        if (parallel, single) not in {(2, 0), (0, 1)}:
            names = {"src", "tgt", "tsv", "jsonl", "mono"}
            given = ", ".join(sorted(self.model_fields_set & names))
            raise ValueError(
                "wants src and tgt together, or tsv, or jsonl, or mono "
                f"(given: {given or 'none of them'})"
            )
        if self.mono is not None and (self.src_lang or self.tgt_lang):
            raise ValueError("mono: is in one language; write lang, not src_lang or tgt_lang")
        if self.mono is None and self.lang is not None:
            raise ValueError("lang: is for mono; write src_lang and tgt_lang")
        for name in ("src_lang", "tgt_lang", "lang"):
            value = getattr(self, name)
            if value is not None and not LANGUAGE.fullmatch(value):
                raise ValueError(f"{name}: {_no_code(value)}")
        return self


class TrainCorpus(Corpus):
    """A training corpus: a corpus with a share in sampling, and maybe with word alignments."""

    weight: float | None = knobs.knob(
        None,
        "share in sampling; without weights every pair comes once an epoch",
        gt=0,
    )
    tag: str | None = knobs.knob(
        None,
        "its sources begin with this tag, such as BT for <BT>: back-translated text (Caswell et al. 2019)",
    )
    alignments: str | None = knobs.knob(
        None,
        "file of word alignments parallel to src and tgt, `0-0 1-2 2-1`: pairs of source word and target "
        "word, counted from 0 (see training.guided_alignment_weight)",
        why="a pair without any, a blank line, is trained as usual",
    )

    @pydantic.model_validator(mode="after")
    def _check_more(self) -> "TrainCorpus":
        if self.alignments is not None and self.src is None:
            raise ValueError("alignments: go with src and tgt, not with tsv, jsonl or mono")
        if self.tag is not None and (not TAG.fullmatch(self.tag) or self.tag in RESERVED_TAGS):
            raise ValueError(
                "tag: wants letters, digits, - and _, a letter first, and none of "
                f"{', '.join(sorted(RESERVED_TAGS))} (given: {self.tag!r})"
            )
        return self


def _form(value: Any) -> str:
    return LIST if isinstance(value, tuple | list) else ONE


# One held-out corpus, or a list of them: which, the value says, so that mistakes are explained once.
HeldOut = Annotated[
    Annotated[Corpus, pydantic.Tag(ONE)]
    | Annotated[tuple[Corpus, ...], pydantic.Field(min_length=1), pydantic.Tag(LIST)],
    pydantic.Discriminator(_form),
]


class DataConfig(knobs.Section):
    """The parallel text of a run, and monolingual text beside it."""

    src_lang: str = knobs.knob(..., "source language, for names and messages", min_length=1)
    tgt_lang: str = knobs.knob(..., "target language, for names and messages", min_length=1)
    train: Annotated[tuple[TrainCorpus, ...], pydantic.Field(min_length=1)] = knobs.knob(
        ..., "training corpora, a list"
    )
    valid: HeldOut = knobs.knob(..., "validation corpus: chooses the best weights")
    test: HeldOut | None = knobs.knob(None, "test corpus: what `nmt evaluate` uses by default")
    sampling_temperature: float | None = knobs.knob(
        None,
        "share of a language pair in sampling = its pairs ** (1 / this); null = every pair once an epoch",
        ge=1,
        why="with 1 as null, but drawn; 5 brings small ones up (Arivazhagan et al. 2019)",
    )
    max_length: int = knobs.knob(
        256,
        "training pairs with a longer side are dropped; EOS counts",
        unit="tokens",
        ge=2,
        why="longer sentences are rare and mostly noise",
    )
    max_length_ratio: float = knobs.knob(
        9.0,
        "training pairs with one side that many times longer are dropped",
        unit="ratio",
        ge=1,
        why="as in the Moses corpus cleaner",
    )
    cache_dir: str | None = knobs.knob(
        None,
        "folder of the token cache, which several runs may share; null = cache/ in run_dir",
        min_length=1,
    )
    num_workers: int = knobs.knob(
        0,
        "processes that make batches; the batches are the same for any number",
        unit="processes",
        ge=0,
        why="a batch takes a thousandth of its update, with subword sampling a tenth",
    )
    noise: noising.NoiseConfig = knobs.knob(
        noising.NoiseConfig(), "how monolingual text is damaged"
    )

    @pydantic.model_validator(mode="after")
    def _check(self) -> "DataConfig":
        weighted = [entry.weight is not None for entry in self.train]
        if any(weighted) and not all(weighted):
            raise ValueError("train: give every corpus a weight, or none")
        if "noise" in self.model_fields_set and not self.has_mono:
            raise ValueError("noise: would be ignored, since no corpus is mono")
        if any(corpus.mono is not None for corpus in self.test_corpora):
            raise ValueError("test: mono has no references; give src and tgt, tsv or jsonl")
        if self.sampling_temperature is not None:
            if any(weighted):
                raise ValueError("sampling_temperature: does not go with weights; take one of them")
            if len({self.pair_of(entry) for entry in self.train}) == 1:
                raise ValueError(
                    "sampling_temperature: would be ignored, since train has one language pair; name "
                    "others by src_lang and tgt_lang"
                )
        self._check_languages()
        return self

    def _check_languages(self) -> None:
        for language in self.languages:
            if not LANGUAGE.fullmatch(language):
                raise ValueError(f"tgt_lang: {_no_code(language)}")
        for name, corpora in (("valid", self.valid_corpora), ("test", self.test_corpora)):
            for corpus in corpora:
                given = corpus.tgt_lang or corpus.lang
                if given is not None and not self.languages:
                    raise ValueError(
                        f"{name}: tgt_lang would be ignored, since no corpus of train names one"
                    )
                target = self.pair_of(corpus)[1]
                if self.languages and target not in self.languages:
                    raise ValueError(
                        f"{name}: train has no corpus into this language (given: {target})."
                        f"{errors.did_you_mean(target, self.languages)} "
                        f"Known: {', '.join(self.languages)}"
                    )

    @property
    def valid_corpora(self) -> tuple[Corpus, ...]:
        """The validation corpora, also where there is one."""
        return self.valid if isinstance(self.valid, tuple) else (self.valid,)

    @property
    def test_corpora(self) -> tuple[Corpus, ...]:
        """The test corpora: none, one or several."""
        if self.test is None:
            return ()
        return self.test if isinstance(self.test, tuple) else (self.test,)

    @property
    def has_mono(self) -> bool:
        """Whether text is damaged, for training or validation."""
        return any(entry.mono is not None for entry in (*self.train, *self.valid_corpora))

    @property
    def languages(self) -> tuple[str, ...]:
        """The target languages that sources are tagged with; none where the model has one direction."""
        if not any(entry.tgt_lang or entry.lang for entry in self.train):
            return ()
        return tuple(dict.fromkeys(self.pair_of(entry)[1] for entry in self.train))

    def pair_of(self, entry: Corpus) -> tuple[str, str]:
        """Returns the source and the target language of a corpus."""
        if entry.mono is not None:
            language = entry.lang or self.tgt_lang
            return language, language
        return entry.src_lang or self.src_lang, entry.tgt_lang or self.tgt_lang

    def pair_names(self, corpora: Sequence[Corpus]) -> list[str]:
        """Returns a name for each of these corpora, `en-de`; a pair's second one is `en-de.2`."""
        names: list[str] = []
        counts = collections.Counter[str]()
        for corpus in corpora:
            name = "-".join(self.pair_of(corpus))
            counts[name] += 1
            names.append(name if counts[name] == 1 else f"{name}.{counts[name]}")
        return names

    def tags_of(self, entry: TrainCorpus) -> tuple[str, ...]:
        """Returns the pieces that the sources of a training corpus begin with."""
        found = [language_tag(self.pair_of(entry)[1])] if self.languages else []
        return (*found, *([f"<{entry.tag}>"] if entry.tag is not None else []))

    @property
    def reserved_pieces(self) -> tuple[str, ...]:
        """The pieces that the source vocabulary has to have besides those of the text."""
        tags = [tag for entry in self.train for tag in self.tags_of(entry)]
        return tuple(dict.fromkeys([*tags, *([MASK] if self.has_mono else [])]))


def language_tag(language: str) -> str:
    """Returns the piece that asks for a target language."""
    return f"<2{language}>"


def _no_code(language: str) -> str:
    return f"is no language code (given: {language!r}); write one such as en or pt-BR"


class TokenizerConfig(knobs.Section):
    """How text becomes pieces (SentencePiece: Kudo and Richardson 2018)."""

    type: Literal["bpe", "unigram", "char", "word"] = knobs.knob(
        "bpe", "kind of pieces", why="BPE is the most reproduced one"
    )
    tgt_type: Literal["bpe", "unigram", "char", "word"] | None = knobs.knob(
        None,
        "kind of pieces of a separate target vocabulary; null = type",
        why="letters in and phonemes out are char and word",
    )
    vocab_size: int = knobs.knob(
        8000,
        "pieces of a vocabulary; for char and word the upper limit",
        unit="pieces",
        ge=8,
        why="right for about a hundred thousand pairs; less for less",
    )
    tgt_vocab_size: int | None = knobs.knob(
        None, "pieces of a separate target vocabulary; null = vocab_size", unit="pieces", ge=8
    )
    shared: bool = knobs.knob(
        True, "one vocabulary for both sides", why="names and numbers are copied more easily"
    )
    model: str | None = knobs.knob(None, "ready SentencePiece model for both sides, not trained")
    src_model: str | None = knobs.knob(None, "ready SentencePiece model of the source side")
    tgt_model: str | None = knobs.knob(None, "ready SentencePiece model of the target side")
    lowercase: bool = knobs.knob(False, "lower-case both sides before anything else")
    normalization: Normalization = knobs.knob(
        "nmt_nfkc",
        "Unicode normalisation rule; identity changes nothing",
        why="SentencePiece's own default",
    )
    byte_fallback: bool = knobs.knob(
        True, "spell unknown characters in bytes", why="no character is ever lost"
    )
    character_coverage: float = knobs.knob(
        1.0,
        "share of characters that get pieces of their own",
        unit="rate",
        gt=0,
        le=1,
        why="take 0.9995 for Chinese or Japanese",
    )
    user_defined_symbols: tuple[str, ...] = knobs.knob((), "strings that are never cut")
    split_digits: bool = knobs.knob(
        False, "every digit is a piece of its own", why="pays where numbers matter"
    )
    max_sentences: int = knobs.knob(
        1_000_000, "lines that the tokenizer is trained on at most, sampled", unit="lines", ge=1
    )
    sampling: Literal["none", "src", "tgt", "both"] = knobs.knob(
        "none", "sides whose training text is cut into other pieces each time (bpe and unigram)"
    )
    sampling_alpha: float = knobs.knob(
        0.1,
        "bpe: share of merges dropped (Provilkov et al. 2020); unigram: exponent (Kudo 2018)",
        unit="rate",
        gt=0,
        le=1,
        why="the papers' value for bpe; for unigram smaller is more random",
    )
    sampling_nbest: int | None = knobs.knob(
        None,
        "unigram: draw from so many best ways to cut a text; null = from all",
        unit="ways",
        ge=2,
    )

    @pydantic.model_validator(mode="after")
    def _check(self) -> "TokenizerConfig":
        if (self.src_model is None) != (self.tgt_model is None):
            raise ValueError("src_model and tgt_model: give both, or model for one shared model")
        if self.model is not None and self.src_model is not None:
            raise ValueError("model: is the shared model; give it, or src_model and tgt_model")
        for kind in () if self.is_ready else self._sampled_types:
            if kind in ONE_WAY:
                raise ValueError(
                    f"sampling: type {kind} cuts a text in one way only; take none, or another type"
                )
        return self

    @property
    def _sampled_types(self) -> list[str]:
        """The kinds of pieces of the sides that are sampled."""
        types = {"src": self.type, "tgt": self.tgt_type or self.type}
        return [types[side] for side in types if self.sampling in {side, "both"}]

    @property
    def is_ready(self) -> bool:
        """Whether ready SentencePiece models are taken instead of training any."""
        return self.model is not None or self.src_model is not None

    @property
    def is_shared(self) -> bool:
        """Whether source and target have one vocabulary."""
        return self.model is not None or (self.src_model is None and self.shared)

    def inapplicable(self) -> dict[str, str]:
        """Returns the settings that the others make meaningless: name to reason."""
        found: dict[str, str] = {}
        if self.is_ready:
            used = {"model", "src_model", "tgt_model", "lowercase"}
            used |= {"sampling", "sampling_alpha", "sampling_nbest"}
            trained = set(TokenizerConfig.model_fields) - used
            found = dict.fromkeys(trained, "a ready SentencePiece model is taken")
        elif self.shared:
            found |= dict.fromkeys(("tgt_vocab_size", "tgt_type"), "the vocabulary is shared")
        if self.type in ONE_WAY and (self.shared or (self.tgt_type or self.type) in ONE_WAY):
            found["split_digits"] = f"type {self.type} has no pieces that it could split"
        if self.sampling == "none":
            found |= dict.fromkeys(("sampling_alpha", "sampling_nbest"), "sampling is none")
        elif "unigram" not in self._sampled_types and not self.is_ready:
            found["sampling_nbest"] = f"type {self._sampled_types[0]} has no list of best ways"
        return found
