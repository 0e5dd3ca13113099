"""The section `data.noise`: how text is damaged for a model to restore (Lewis et al. 2020)."""

from typing import Literal

import pydantic

from nmt.config import knobs

RATES = ("infill_rate", "mask_rate", "delete_rate", "rotate_rate", "permute_rate")


class NoiseConfig(knobs.Section):
    """What is done to the source of monolingual text, in this order: from sentences to tokens."""

    permute_rate: float = knobs.knob(
        0.0, "share of texts whose sentences are put in another order", unit="rate", ge=0, le=1
    )
    rotate_rate: float = knobs.knob(
        0.0, "share of texts that begin at a random unit and end before it", unit="rate", ge=0, le=1
    )
    infill_rate: float = knobs.knob(
        0.35,
        "share of units in spans, each of which one mask stands for",
        unit="rate",
        ge=0,
        lt=1,
        why="as mBART (Liu et al. 2020)",
    )
    span_length: float = knobs.knob(
        3.5,
        "mean of the Poisson distribution of span lengths; a span of none is one mask more",
        unit="units",
        ge=1,
        why="as mBART",
    )
    mask_rate: float = knobs.knob(
        0.0, "share of units in whose place a mask stands", unit="rate", ge=0, lt=1
    )
    delete_rate: float = knobs.knob(
        0.0, "share of units that are left out", unit="rate", ge=0, lt=1
    )
    unit: Literal["words", "pieces"] = knobs.knob(
        "words",
        "what is masked, deleted and counted: pieces up to the next space, or single pieces",
        why="the rest of a word gives its masked piece away; take pieces where there are no spaces",
    )

    @pydantic.model_validator(mode="after")
    def _check(self) -> "NoiseConfig":
        if not any(getattr(self, name) for name in RATES):
            raise ValueError(f"wants a rate above 0, of {', '.join(RATES)} (all are 0)")
        return self

    def inapplicable(self) -> dict[str, str]:
        """Returns the settings that the others make meaningless: name to reason."""
        found = {} if self.infill_rate else {"span_length": "infill_rate is 0"}
        if not any(getattr(self, name) for name in RATES if name != "permute_rate"):
            found["unit"] = "nothing but sentences is moved"
        return found
