"""The schema of a configuration: every key, its default, unit and reason.

There is one default per knob, and it stands here (for the section `training` in `training.py`, for the
options of the model families in `families.py`). `docs/config.md` is generated from these declarations.
"""

from typing import Annotated, Any, Literal

import pydantic

from nmt.config import families, knobs, training

Normalization = Literal["nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf", "identity"]
Precision = knobs.Precision
Section = knobs.Section
TrainingConfig = training.TrainingConfig


class Corpus(Section):
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
    """A training corpus: a corpus with a share in sampling."""

    weight: float | None = knobs.knob(
        None,
        "share in sampling; without weights every pair comes once an epoch",
        gt=0,
    )


class DataConfig(Section):
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

    @pydantic.model_validator(mode="after")
    def _check(self) -> "DataConfig":
        weighted = [entry.weight is not None for entry in self.train]
        if any(weighted) and not all(weighted):
            raise ValueError("train: give every corpus a weight, or none")
        return self


class TokenizerConfig(Section):
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

    @pydantic.model_validator(mode="after")
    def _check(self) -> "TokenizerConfig":
        if (self.src_model is None) != (self.tgt_model is None):
            raise ValueError("src_model and tgt_model: give both, or model for one shared model")
        if self.model is not None and self.src_model is not None:
            raise ValueError("model: is the shared model; give it, or src_model and tgt_model")
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
            trained = set(TokenizerConfig.model_fields) - {"model", "src_model", "tgt_model"}
            found = dict.fromkeys(trained - {"lowercase"}, "a ready SentencePiece model is taken")
        elif self.shared:
            found["tgt_vocab_size"] = "the vocabulary is shared"
        if self.type in {"char", "word"}:
            found["split_digits"] = f"type {self.type} has no pieces that it could split"
        return found


class ModelConfig(Section):
    """Encoder and decoder, picked separately, and how their embeddings are tied."""

    encoder: pydantic.SerializeAsAny[families.FamilyOptions] = knobs.knob(
        families.TransformerEncoderOptions(), "the encoder: type and options"
    )
    decoder: pydantic.SerializeAsAny[families.FamilyOptions] = knobs.knob(
        families.TransformerDecoderOptions(), "the decoder: type and options"
    )
    tie_embeddings: Literal["auto", "none", "decoder", "all"] = knobs.knob(
        "auto",
        "weights in common: none, target embedding = output layer, or source embedding too",
        why="auto = all where vocabulary and width allow it, otherwise decoder",
    )

    @pydantic.field_validator("encoder", "decoder", mode="before")
    @classmethod
    def _pick_schema(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        if not isinstance(value, dict):
            return value
        side: families.Side = "encoder" if info.field_name == "encoder" else "decoder"
        name = value.get("type", "transformer")
        if not isinstance(name, str):
            raise ValueError(f"type: wants the name of a family (given: {name!r})")
        options = families.options_schema(name, side)
        return options.model_validate({"type": name, **value}, strict=True)


class DecodingConfig(Section):
    """The beam search and its limits."""

    beam_size: int = knobs.knob(
        5, "hypotheses kept per sentence; 1 = greedy", unit="hypotheses", ge=1
    )
    length_penalty: float = knobs.knob(
        1.0,
        "alpha of ((5 + length) / 6) ** alpha, which divides scores (Wu et al. 2016); 0 = plain sum",
        ge=0,
    )
    min_length: int = knobs.knob(0, "no EOS before so many target tokens", unit="tokens", ge=0)
    max_length: int = knobs.knob(
        512, "no target longer than this, EOS included", unit="tokens", ge=1
    )
    max_length_ratio: float = knobs.knob(
        3.0,
        "no target longer than this many times the source length, plus 20",
        unit="ratio",
        gt=0,
        why="stops endless repetition early",
    )
    patience: float = knobs.knob(
        1.0,
        "a sentence is done once beam_size times this many hypotheses are finished",
        unit="factor",
        gt=0,
        why="1 = the usual rule (Kasai et al. 2024)",
    )
    exact_stop: bool = knobs.knob(
        False, "go on until no open hypothesis can win any more", why="slower, seldom better"
    )
    max_src_tokens: int = knobs.knob(
        1024, "longer sources are cut there, which stderr counts", unit="tokens", ge=1
    )
    batch_tokens: int = knobs.knob(
        4096,
        "source tokens times beam_size, padding included, searched at once",
        unit="tokens",
        ge=1,
    )
    precision: Precision = knobs.knob(
        "auto", "arithmetic of the search", why="auto = fp32, so that results can be compared"
    )

    @pydantic.model_validator(mode="after")
    def _check(self) -> "DecodingConfig":
        if self.min_length >= self.max_length:
            raise ValueError(
                "min_length: has to be below max_length "
                f"(given: {self.min_length} and {self.max_length})"
            )
        return self

    def inapplicable(self) -> dict[str, str]:
        """Returns the settings that the others make meaningless: name to reason."""
        return {"patience": "exact_stop has a rule of its own"} if self.exact_stop else {}


class Config(Section):
    """A whole configuration."""

    run_dir: str = knobs.knob(..., "folder of the run: model, checkpoints, logs", min_length=1)
    seed: int = knobs.knob(1, "seed of everything random", ge=0, lt=2**63)
    device: str = knobs.knob(
        "auto", "auto, cpu, cuda, cuda:1, mps", why="auto = CUDA, then MPS, then CPU"
    )
    threads: int | None = knobs.knob(
        None, "CPU threads; null = as many as torch takes", unit="threads", ge=1
    )
    plugins: tuple[str, ...] = knobs.knob((), "modules or .py files that register model families")
    data: DataConfig = knobs.knob(..., "the parallel text")
    tokenizer: TokenizerConfig = knobs.knob(TokenizerConfig(), "text to pieces")
    model: ModelConfig = knobs.knob(ModelConfig(), "encoder and decoder")
    training: TrainingConfig = knobs.knob(TrainingConfig(), "how it is trained")
    decoding: DecodingConfig = knobs.knob(DecodingConfig(), "how it is searched")

    @pydantic.model_validator(mode="after")
    def _check(self) -> "Config":
        if self.model.tie_embeddings == "all" and not self.tokenizer.is_shared:
            raise ValueError("model.tie_embeddings: all needs tokenizer.shared: true")
        return self
