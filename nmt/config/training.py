"""The section `training` of a configuration."""

from typing import Annotated, Literal

import pydantic

from nmt.config import knobs


class TrainingConfig(knobs.Section):
    """Batches, optimiser, schedule, limits, validation."""

    batch_tokens: int = knobs.knob(
        4096, "target tokens of one update, EOS included, padding not", unit="tokens", ge=1
    )
    max_device_tokens: Annotated[int, pydantic.Field(ge=1)] | Literal["auto"] | None = knobs.knob(
        None,
        "tokens of a side, padding included, that the device computes at once; "
        "null = whole batch, auto = tried out before training",
        unit="tokens",
    )
    memory_limit: int | None = knobs.knob(
        None,
        "memory of the process while it computes gradients, files that it reads not counted, on a CPU "
        "under Linux; a batch that needs more is cut when the operation that passes it is done",
        unit="MiB",
        ge=1,
        why="null = all that the system gives",
    )
    sharding: Literal["none", "full"] = knobs.knob(
        "none",
        "what the processes of a run have of weights, gradients and moments: each all of them, or "
        "(full) each a part",
        why="full is for models that do not fit; it exchanges more",
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
    init_from: str | None = knobs.knob(
        None,
        "model folder whose weights and tokenizer the run starts from, and whose section model holds "
        "where the configuration has none",
        min_length=1,
    )
    freeze: tuple[str, ...] = knobs.knob(
        (), "names of parameters that stay as they are, with shell patterns, such as encoder.*"
    )
    rate_factors: dict[str, Annotated[float, pydantic.Field(gt=0)]] = knobs.knob(
        {},
        "pattern of parameter names to factor on their learning rate; the first that fits counts",
    )
    optimizer: Literal["adam", "adamw", "muon"] = knobs.knob(
        "adam",
        "Kingma and Ba 2015; Loshchilov 2019; Jordan et al. 2024 for hidden matrices, adamw for others",
    )
    learning_rate: float = knobs.knob(
        0.001, "peak learning rate; for schedule noam a factor on its curve, usually 0.5 to 2", gt=0
    )
    betas: tuple[float, float] = knobs.knob(
        (0.9, 0.98), "decay rates of Adam's two moments", why="Vaswani et al. 2017"
    )
    eps: float = knobs.knob(1e-9, "Adam's epsilon", gt=0, why="Vaswani et al. 2017")
    weight_decay: float = knobs.knob(
        0.01, "decoupled weight decay of adamw and muon", unit="rate", ge=0
    )
    muon_momentum: float = knobs.knob(
        0.95, "decay rate of Muon's momentum", unit="rate", ge=0, lt=1, why="Jordan et al. 2024"
    )
    muon_rate_factor: float = knobs.knob(
        1.0,
        "factor on the learning rate of Muon's matrices",
        gt=0,
        why="their updates are scaled to the size of adamw's (Liu et al. 2025)",
    )
    schedule: Literal["inverse_sqrt", "noam", "cosine", "linear", "plateau", "constant"] = (
        knobs.knob("inverse_sqrt", "how the rate goes on after warm-up", why="needs no end point")
    )
    warmup_updates: int = knobs.knob(
        1000, "updates over which the rate rises to its peak", unit="updates", ge=0
    )
    min_learning_rate: float = knobs.knob(
        0.0, "where cosine, linear and a cooldown end, and below which plateau stops the run", ge=0
    )
    cooldown_updates: int = knobs.knob(
        0,
        "the last updates before max_updates, over which the rate of the schedule falls linearly to "
        "min_learning_rate on top (Zhai et al. 2022); 0 = none",
        unit="updates",
        ge=0,
        why="with a fifth or a quarter of all updates a run gains what longer ones do (docs/results.md)",
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
    rdrop_weight: float = knobs.knob(
        0.0,
        "weight of the divergence between two passes with other dropout (Liang et al. 2021)",
        ge=0,
        why="0 = one pass; two make an update more than twice as long, and learn more slowly at first",
    )
    guided_alignment_weight: float = knobs.knob(
        0.0,
        "weight of the cross-entropy between attention and data.train.N.alignments (Chen et al. 2016)",
        ge=0,
        why="0 = none; attention finds its way alone, but its alignments are worse",
    )
    clip_norm: float | None = knobs.knob(1.0, "largest gradient norm; null = no clipping", gt=0)
    max_skipped_updates: int = knobs.knob(
        5,
        "updates in a row whose loss or gradient is not finite, all skipped, "
        "before the run goes back to a checkpoint with half the rate",
        unit="updates",
        ge=1,
        why="one bad batch is no reason to lose updates",
    )
    ema_decay: float | None = knobs.knob(
        None,
        "decay of a moving average of the weights, validated and published in their place",
        unit="rate",
        gt=0,
        lt=1,
        why="null = no average; 0.998 looks back some 500 updates",
    )
    precision: knobs.Precision = knobs.knob(
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
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = knobs.knob(
        (), "tools that show the run while it goes on, each an extra of that name"
    )
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
        if self.cooldown_updates and self.max_updates is None:
            raise ValueError("cooldown_updates: end at max_updates, which is null")
        if self.cooldown_updates and self.cooldown_updates > (self.max_updates or 0):
            raise ValueError(
                "cooldown_updates: are more than max_updates "
                f"(given: {self.cooldown_updates} of {self.max_updates})"
            )
        if self.min_learning_rate >= self.learning_rate:
            raise ValueError(
                "min_learning_rate: has to be below learning_rate "
                f"(given: {self.min_learning_rate:g} and {self.learning_rate:g})"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: both lie in [0, 1) (given: {list(self.betas)})")
        if self.sharding == "full":
            self._check_sharding()
        return self

    def _check_sharding(self) -> None:
        """Refuses what takes whole matrices, or ranks that do not go through a batch in step."""
        if self.optimizer == "muon":
            raise ValueError(
                "sharding: full goes with adam and adamw, since muon takes whole matrices; take "
                "one of them, or sharding: none"
            )
        if self.max_device_tokens == "auto" or self.memory_limit is not None:
            name = "memory_limit" if self.memory_limit is not None else "max_device_tokens: auto"
            raise ValueError(
                f"sharding: full does not go with {name}, since one rank alone cannot cut a piece; "
                "set max_device_tokens to a number or null, or sharding: none"
            )

    def inapplicable(self) -> dict[str, str]:
        """Returns the settings that the others make meaningless: name to reason."""
        found: dict[str, str] = {}
        if self.optimizer == "adam":
            found["weight_decay"] = "only optimizers adamw and muon decay weights"
        if self.optimizer != "muon":
            found |= dict.fromkeys(("muon_momentum", "muon_rate_factor"), "only muon uses it")
        if self.schedule != "plateau":
            found |= dict.fromkeys(
                ("plateau_factor", "plateau_patience"), "only schedule plateau uses it"
            )
        if self.schedule in {"cosine", "linear"}:
            found["cooldown_updates"] = f"schedule {self.schedule} falls to its end anyway"
        if self.schedule not in {"plateau", "cosine", "linear"} and not self.cooldown_updates:
            found["min_learning_rate"] = f"schedule {self.schedule} never ends at a rate"
        return found
