"""Parameters by name pattern: which are frozen, and which learn at a rate of their own."""

import difflib
import fnmatch
import logging
from collections.abc import Iterable

from torch import nn

from nmt import errors
from nmt.config import schema

logger = logging.getLogger(__name__)

NAMES_SHOWN = 3


def freeze(config: schema.TrainingConfig, model: nn.Module) -> None:
    """Takes the parameters that `training.freeze` names out of training.

    Args:
        config: the patterns, as the shell has them (`encoder.*`); `*` also crosses dots.
        model: the bare model.

    Raises:
        errors.ConfigError: a pattern names nothing, or nothing is left to train.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    named: set[str] = set()
    for pattern in config.freeze:
        named.update(_matching(pattern, parameters, "training.freeze"))
    for name in named:
        parameters[name].requires_grad_(False)
    for name, parameter in parameters.items():
        # What is tied is one parameter, whatever it is called.
        if not parameter.requires_grad and name not in named:
            logger.info("training.freeze: %s is frozen, too, since it is tied", name)
    if config.freeze and not any(p.requires_grad for p in parameters.values()):
        raise errors.ConfigError(
            f"training.freeze: nothing is left to train (given: {', '.join(config.freeze)}). "
            "Name less."
        )


def rate_factors(config: schema.TrainingConfig, model: nn.Module) -> dict[str, float]:
    """Returns the factor of the learning rate of every parameter that is trained.

    Args:
        config: patterns and factors; the first pattern that fits a name counts.
        model: the bare model, after `freeze`.

    Raises:
        errors.ConfigError: a pattern names nothing that is trained.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    first_names = {id(parameter): name for name, parameter in trained.items()}
    # Of what is tied every name will do, and the first one stands for it.
    names = {
        name: first_names[id(p)]
        for name, p in model.named_parameters(remove_duplicate=False)
        if p.requires_grad
    }
    factors: dict[str, float] = {}
    for pattern, factor in config.rate_factors.items():
        for name in _matching(pattern, names, "training.rate_factors"):
            factors.setdefault(names[name], factor)
    return {name: factors.get(name, 1.0) for name in trained}


def _matching(pattern: str, names: Iterable[str], place: str) -> list[str]:
    names = list(names)
    found = fnmatch.filter(names, pattern)
    if not found:
        close = difflib.get_close_matches(pattern, names, n=NAMES_SHOWN, cutoff=0.3)
        near = ", ".join(close or names[:NAMES_SHOWN])
        raise errors.ConfigError(
            f"{place}: no parameter that is trained has such a name (given: {pattern}). Patterns "
            f"are as in the shell, such as encoder.*; near names: {near}."
        )
    return found
