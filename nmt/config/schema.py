"""The schema of a configuration: every key, its default, unit and reason.

There is one default per knob, and it stands here (for data and tokenizer: in `corpora.py`; for the
options of the model families: in `families.py`). `docs/config.md` is generated from these declarations.
"""

from typing import Any, Literal

import pydantic

from nmt.config import corpora, families, knobs

Precision = Literal["auto", "fp32", "bf16", "fp16", "fp64"]

Section = knobs.Section
Corpus = corpora.Corpus
TrainCorpus = corpora.TrainCorpus
DataConfig = corpora.DataConfig
TokenizerConfig = corpora.TokenizerConfig


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


class TrainingConfig(Section):
    """Batches, optimiser, schedule, limits, validation."""

    batch_tokens: int = knobs.knob(
        4096, "target tokens of one update, EOS included, padding not", unit="tokens", ge=1
    )
    max_device_tokens: int | None = knobs.knob(
        None,
        "target tokens, padding included, that the device computes at once; null = whole batch",
        unit="tokens",
        ge=1,
    )
    max_updates: int | None = knobs.knob(
        20_000, "stop after so many updates; null = no such limit", unit="updates", ge=1
    )
    max_epochs: int | None = knobs.knob(None, "stop after so many epochs", unit="epochs", ge=1)
    max_minutes: float | None = knobs.knob(
        None, "stop after so many minutes of training, resumed ones counted", unit="minutes", gt=0
    )
    patience: int | None = knobs.knob(
        None, "stop after so many validations without a new best", unit="validations", ge=1
    )
    best_metric: Literal["loss", "bleu", "chrf"] = knobs.knob(
        "bleu", "what chooses the best weights and feeds patience", why="what users compare by"
    )
    optimizer: Literal["adam", "adamw"] = knobs.knob("adam", "Kingma and Ba 2015; Loshchilov 2019")
    learning_rate: float = knobs.knob(0.001, "peak learning rate", gt=0)
    betas: tuple[float, float] = knobs.knob(
        (0.9, 0.98), "decay rates of Adam's two moments", why="Vaswani et al. 2017"
    )
    eps: float = knobs.knob(1e-9, "Adam's epsilon", gt=0, why="Vaswani et al. 2017")
    weight_decay: float = knobs.knob(0.01, "decoupled weight decay of adamw", unit="rate", ge=0)
    schedule: Literal["inverse_sqrt", "noam", "cosine", "linear", "plateau", "constant"] = (
        knobs.knob("inverse_sqrt", "how the rate goes on after warm-up", why="needs no end point")
    )
    warmup_updates: int = knobs.knob(
        1000, "updates over which the rate rises to its peak", unit="updates", ge=0
    )
    min_learning_rate: float = knobs.knob(
        0.0, "where cosine and linear end, and below which plateau stops the run", ge=0
    )
    plateau_factor: float = knobs.knob(
        0.5, "what the rate is multiplied by on a plateau", unit="factor", gt=0, lt=1
    )
    plateau_patience: int = knobs.knob(
        3, "validations without a new best before the rate falls", unit="validations", ge=1
    )
    label_smoothing: float = knobs.knob(
        0.1, "share of probability spread over the vocabulary", unit="rate", ge=0, lt=1
    )
    clip_norm: float | None = knobs.knob(1.0, "largest gradient norm; null = no clipping", gt=0)
    precision: Precision = knobs.knob(
        "auto",
        "arithmetic of forward and backward; weights and optimiser stay fp32 (fp64 for fp64)",
        why="auto = bf16 where the processor has it, fp16 on older GPUs, fp32 elsewhere",
    )
    logging_interval: int = knobs.knob(50, "a metrics line so often", unit="updates", ge=1)
    validation_interval: int = knobs.knob(500, "validate so often", unit="updates", ge=1)
    validation_beam_size: int = knobs.knob(
        1, "beam of the translations at validation", unit="hypotheses", ge=1, why="fast"
    )
    checkpoint_interval: int = knobs.knob(
        500, "save a state to resume from so often", unit="updates", ge=1
    )
    keep_checkpoints: int = knobs.knob(2, "newest resume states kept", unit="checkpoints", ge=1)
    average_checkpoints: int = knobs.knob(
        1,
        "weights of so many last validations are averaged at the end, and kept if they win",
        unit="validations",
        ge=1,
        why="1 = no averaging",
    )

    @pydantic.model_validator(mode="after")
    def _check(self) -> "TrainingConfig":
        limits = (self.max_updates, self.max_epochs, self.max_minutes, self.patience)
        if all(limit is None for limit in limits):
            raise ValueError(
                "no limit is set; set max_updates, max_epochs, max_minutes or patience"
            )
        if self.schedule in {"cosine", "linear"} and self.max_updates is None:
            raise ValueError(f"schedule: {self.schedule} ends at max_updates, which is null")
        if self.min_learning_rate >= self.learning_rate:
            raise ValueError(
                "min_learning_rate: has to be below learning_rate "
                f"(given: {self.min_learning_rate:g} and {self.learning_rate:g})"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: both lie in [0, 1) (given: {list(self.betas)})")
        return self

    def inapplicable(self) -> dict[str, str]:
        """Returns the settings that the others make meaningless: name to reason."""
        found: dict[str, str] = {}
        if self.optimizer != "adamw":
            found["weight_decay"] = "only optimizer adamw decays weights"
        if self.schedule != "plateau":
            found |= dict.fromkeys(
                ("plateau_factor", "plateau_patience"), "only schedule plateau uses it"
            )
        if self.schedule not in {"plateau", "cosine", "linear"}:
            found["min_learning_rate"] = f"schedule {self.schedule} never ends at a rate"
        return found


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
