"""The schema of a configuration: every key, its default, unit and reason.

There is one default per knob, and it stands here, or for data and tokenizer in `corpora.py`, for the
section `training` in `training.py`, and for the options of the model families in `families.py`.
`docs/config.md` is generated from these declarations.
"""

from typing import Any, Literal

import pydantic

from nmt.config import corpora, families, knobs, noising, training

Section = knobs.Section
Corpus = corpora.Corpus
TrainCorpus = corpora.TrainCorpus
DataConfig = corpora.DataConfig
NoiseConfig = noising.NoiseConfig
TokenizerConfig = corpora.TokenizerConfig
TrainingConfig = training.TrainingConfig


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


# Beyond these a search is a slip of the finger: it would end in memory or in the range of numbers.
MAX_HYPOTHESES = 1_000
MAX_TOKENS = 1_000_000
MAX_FACTOR = 1e6


class DecodingConfig(Section):
    """The beam search and its limits."""

    beam_size: int = knobs.knob(
        5, "hypotheses kept per sentence; 1 = greedy", unit="hypotheses", ge=1, le=MAX_HYPOTHESES
    )
    length_penalty: float = knobs.knob(
        1.0,
        "alpha of ((5 + length) / 6) ** alpha, which divides scores (Wu et al. 2016); 0 = plain sum",
        ge=0,
        le=10,
    )
    min_length: int = knobs.knob(
        0, "no EOS before so many target tokens", unit="tokens", ge=0, le=MAX_TOKENS
    )
    max_length: int = knobs.knob(
        512, "no target longer than this, EOS included", unit="tokens", ge=1, le=MAX_TOKENS
    )
    max_length_ratio: float = knobs.knob(
        3.0,
        "no target longer than this many times the source length, plus 20",
        unit="ratio",
        gt=0,
        le=MAX_FACTOR,
        why="stops endless repetition early",
    )
    patience: float = knobs.knob(
        1.0,
        "a sentence is done once beam_size times this many are finished and no open one is better",
        unit="factor",
        gt=0,
        le=MAX_FACTOR,
        why="1 = the usual rule (Kasai et al. 2024), but that open ones count, too",
    )
    exact_stop: bool = knobs.knob(
        False, "go on until no open hypothesis can win any more", why="slower, seldom better"
    )
    min_length_ratio: float = knobs.knob(
        0.0, "no EOS before this many times the source length", unit="ratio", ge=0, le=MAX_FACTOR
    )
    coverage_penalty: float = knobs.knob(
        0.0,
        "beta of the penalty for source tokens that got little attention (Wu et al. 2016)",
        ge=0,
        le=MAX_FACTOR,
        why="0 = none; needs a model that attends",
    )
    no_repeat_ngram_size: int = knobs.knob(
        0,
        "no sequence of so many tokens comes twice; 0 = all may",
        unit="tokens",
        ge=0,
        le=MAX_TOKENS,
    )
    repetition_penalty: float = knobs.knob(
        1.0,
        "what the log-probability of a token that is there already is multiplied with",
        ge=1,
        le=MAX_FACTOR,
        unit="factor",
        why="1 = nothing changes",
    )
    sample: bool = knobs.knob(
        False, "draw each token from the model instead of searching for the likeliest sentence"
    )
    temperature: float = knobs.knob(
        1.0,
        "what logits are divided by before drawing; below 1 = likelier tokens",
        ge=0.001,
        le=MAX_FACTOR,
    )
    top_k: int = knobs.knob(
        0, "draw from so many likeliest tokens; 0 = all", unit="tokens", ge=0, le=2**31 - 1
    )
    top_p: float = knobs.knob(
        1.0, "draw from the likeliest tokens that have this share of probability", gt=0, le=1
    )
    seed: int = knobs.knob(
        1,
        "of the drawing: a seed, a source text and a number of the sample give one output",
        ge=0,
        lt=2**63,
        why="the same output in any batch and any order",
    )
    alignments: bool = knobs.knob(
        False, "find for each target word the source word that it attends to most"
    )
    replace_unknown: bool = knobs.knob(
        False, "put the source word that it attends to most in place of an unknown word"
    )
    token_scores: bool = knobs.knob(False, "keep the log-probability of each token")
    diversity_groups: int = knobs.knob(
        1,
        "the beam is split into so many groups, which avoid each other's tokens",
        unit="groups",
        ge=1,
        why="1 = an ordinary beam (Vijayakumar et al. 2016)",
    )
    diversity_penalty: float = knobs.knob(
        0.5,
        "what a token costs for each hypothesis of an earlier group that takes it",
        ge=0,
        le=MAX_FACTOR,
    )
    max_src_tokens: int = knobs.knob(
        1024, "longer sources are cut or split, which stderr counts", unit="tokens", ge=1
    )
    long: Literal["truncate", "split"] = knobs.knob(
        "truncate",
        "sources past max_src_tokens: cut, or translated in parts that end where sentences do",
        why="parts are translated without what stands around them",
    )
    batch_tokens: int = knobs.knob(
        4096,
        "source tokens times beam_size, padding included, searched at once",
        unit="tokens",
        ge=1,
    )
    precision: knobs.InferencePrecision = knobs.knob(
        "auto",
        "arithmetic of the search; int8 on CPU only",
        why="auto = fp32, so that results can be compared, or what `nmt optimize` chose on CPU",
    )

    @pydantic.model_validator(mode="after")
    def _check(self) -> "DecodingConfig":
        if self.min_length >= self.max_length:
            raise ValueError(
                "min_length: has to be below max_length "
                f"(given: {self.min_length} and {self.max_length})"
            )
        if self.beam_size % self.diversity_groups:
            raise ValueError(
                "diversity_groups: wants a divisor of beam_size "
                f"(given: {self.diversity_groups} groups, beam {self.beam_size})"
            )
        return self

    def inapplicable(self) -> dict[str, str]:
        """Returns the settings that the others make meaningless: name to reason."""
        reasons = {"patience": "exact_stop has a rule of its own"} if self.exact_stop else {}
        if self.sample:
            names = ("exact_stop", "patience", "diversity_groups", "beam_size")
            reasons |= dict.fromkeys(names, "sampling searches for nothing")
        else:
            names = ("temperature", "top_k", "top_p", "seed")
            reasons |= dict.fromkeys(names, "nothing is drawn without sample")
        if self.sample or self.diversity_groups == 1:
            reasons["diversity_penalty"] = "there are no groups"
        return reasons


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
        self._check_guidance()
        return self

    def _check_guidance(self) -> None:
        is_guided = self.training.guided_alignment_weight > 0
        has_alignments = any(entry.alignments is not None for entry in self.data.train)
        if is_guided and not has_alignments:
            raise ValueError(
                "training.guided_alignment_weight: no corpus of data.train has alignments; name a file"
            )
        if has_alignments and not is_guided:
            raise ValueError(
                "data.train: alignments would be ignored, since training.guided_alignment_weight is 0"
            )
        if is_guided and getattr(self.model.decoder, "attention", None) == "none":
            raise ValueError(
                "training.guided_alignment_weight: model.decoder.attention is none, and there is nothing "
                "to guide"
            )
        if is_guided and self.tokenizer.sampling != "none":
            raise ValueError(
                "training.guided_alignment_weight: does not go with tokenizer.sampling, whose pieces "
                "change; take none of them"
            )
        if is_guided and self.training.rdrop_weight:
            raise ValueError(
                "training.guided_alignment_weight: does not go with training.rdrop_weight; take one"
            )
