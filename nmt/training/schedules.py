"""The learning rate of each update, as a function of the update alone (and of plateaus so far)."""

import math

from nmt import errors
from nmt.config import schema


def learning_rate(
    config: schema.TrainingConfig, update: int, *, width: int, num_plateaus: int = 0
) -> float:
    """Returns the rate of an update.

    All schedules but noam rise linearly to `learning_rate` over the warm-up. Then, with u the update
    and w the warm-up (at least 1):

    - inverse_sqrt: falls as sqrt(w / u);
    - cosine (Loshchilov and Hutter 2017, equation 5, without restarts) and linear: fall to
      `min_learning_rate` at `max_updates`;
    - plateau: multiplied by `plateau_factor` at each plateau of the validation score;
    - constant: stays.

    Over the last `cooldown_updates` updates the rate falls linearly from that to `min_learning_rate` at
    `max_updates` (the cooldown of Zhai et al. 2022, "Scaling Vision Transformers", section 3.5).

    noam is equation 3 of Vaswani et al. 2017, `learning_rate` being a factor on it:
    width ** -0.5 * min(u ** -0.5, u * w ** -1.5).

    Args:
        config: the schedule and its numbers.
        update: counted from 1.
        width: width of the decoder's output states, for noam.
        num_plateaus: plateaus met so far.
    """
    rate = _scheduled(config, update, width, num_plateaus)
    floor = config.min_learning_rate
    if not config.cooldown_updates or rate <= floor:
        return rate
    assert config.max_updates is not None, "the schema has checked that there is an end"
    share = min(max(config.max_updates - update, 0) / config.cooldown_updates, 1.0)
    return floor + (rate - floor) * share


def _scheduled(config: schema.TrainingConfig, update: int, width: int, num_plateaus: int) -> float:
    peak, warmup = config.learning_rate, config.warmup_updates
    if config.schedule == "noam":
        return float(peak * width**-0.5 * min(update**-0.5, update * max(warmup, 1) ** -1.5))
    if update < warmup:
        return peak * update / warmup
    floor = config.min_learning_rate
    match config.schedule:
        case "inverse_sqrt":
            return peak * math.sqrt(max(warmup, 1) / update)
        case "cosine":
            return floor + (peak - floor) * 0.5 * (
                1.0 + math.cos(math.pi * _progress(config, update))
            )
        case "linear":
            return floor + (peak - floor) * (1.0 - _progress(config, update))
        case "plateau":
            return float(peak * config.plateau_factor**num_plateaus)
        case "constant":
            return peak
    raise errors.ConfigError(f"training.schedule: unknown (given: {config.schedule})")


def _progress(config: schema.TrainingConfig, update: int) -> float:
    """Returns the share of the way from the end of the warm-up to `max_updates`, at most 1."""
    assert config.max_updates is not None, "the schema has checked that there is an end"
    length = max(config.max_updates - config.warmup_updates, 1)
    return min((update - config.warmup_updates) / length, 1.0)
