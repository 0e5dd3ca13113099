"""The sections that say what is read and how text becomes pieces; `schema.py` has the others."""

from typing import Annotated, Literal

import pydantic

from nmt.config import knobs

Normalization = Literal["nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf", "identity"]


class Corpus(knobs.Section):
    """Where sentence pairs are read from: two parallel files, one TSV or one JSONL."""

    src: str | None = knobs.knob(None, "file of source lines (.gz, .xz and .zst are read too)")
    tgt: str | None = knobs.knob(None, "file of target lines, parallel to src")
    tsv: str | None = knobs.knob(None, "file with source, tab, target on each line")
    jsonl: str | None = knobs.knob(None, 'file with an object {"src": ..., "tgt": ...} per line')

    @pydantic.model_validator(mode="after")
    def _check(self) -> "Corpus":
        parallel = (self.src is not None) + (self.tgt is not None)
        single = (self.tsv is not None) + (self.jsonl is not None)
        if (parallel, single) not in {(2, 0), (0, 1)}:
            given = ", ".join(sorted(self.model_fields_set & {"src", "tgt", "tsv", "jsonl"}))
            raise ValueError(
                f"wants src and tgt together, or tsv, or jsonl (given: {given or 'none of them'})"
            )
        return self


class TrainCorpus(Corpus):
    """A training corpus: a corpus with a share in sampling, and maybe with word alignments."""

    weight: float | None = knobs.knob(
        None,
        "share in sampling; without weights every pair comes once an epoch",
        gt=0,
    )
    alignments: str | None = knobs.knob(
        None,
        "file of word alignments parallel to src and tgt, `0-0 1-2 2-1`: pairs of source word and target "
        "word, counted from 0 (see training.guided_alignment_weight)",
        why="a pair without any, a blank line, is trained as usual",
    )

    @pydantic.model_validator(mode="after")
    def _check_alignments(self) -> "TrainCorpus":
        if self.alignments is not None and self.src is None:
            raise ValueError("alignments: go with src and tgt, not with tsv or jsonl")
        return self


class DataConfig(knobs.Section):
    """The parallel text of a run."""

    src_lang: str = knobs.knob(..., "source language, for names and messages", min_length=1)
    tgt_lang: str = knobs.knob(..., "target language, for names and messages", min_length=1)
    train: Annotated[tuple[TrainCorpus, ...], pydantic.Field(min_length=1)] = knobs.knob(
        ..., "training corpora, a list"
    )
    valid: Corpus = knobs.knob(..., "validation corpus: chooses the best weights")
    test: Corpus | None = knobs.knob(None, "test corpus: what `nmt evaluate` uses by default")
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

    @pydantic.model_validator(mode="after")
    def _check(self) -> "DataConfig":
        weighted = [entry.weight is not None for entry in self.train]
        if any(weighted) and not all(weighted):
            raise ValueError("train: give every corpus a weight, or none")
        return self


class TokenizerConfig(knobs.Section):
    """How text becomes pieces (SentencePiece: Kudo and Richardson 2018)."""

    type: Literal["bpe", "unigram", "char", "word"] = knobs.knob(
        "bpe", "kind of pieces", why="BPE is the most reproduced one"
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
        if self.sampling != "none" and self.type in {"char", "word"} and not self.is_ready:
            raise ValueError(
                f"sampling: type {self.type} cuts a text in one way only; take none, or another type"
            )
        return self

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
            found["tgt_vocab_size"] = "the vocabulary is shared"
        if self.type in {"char", "word"}:
            found["split_digits"] = f"type {self.type} has no pieces that it could split"
        if self.sampling == "none":
            found |= dict.fromkeys(("sampling_alpha", "sampling_nbest"), "sampling is none")
        elif self.type != "unigram" and not self.is_ready:
            found["sampling_nbest"] = f"type {self.type} has no list of best ways"
        return found
