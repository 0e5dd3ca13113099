"""The tensors of a run: what goes into a resume state and comes back, and which weights are shown."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from nmt.models import seq2seq
from nmt.training import optimizers, update

Tensors = dict[str, torch.Tensor]

WEIGHTS, OPTIMIZER, SCALER, EMA = "weights", "optimizer", "scaler", "ema"

# Of a scaler's numbers, those that count updates; the others are fractions.
_WHOLE = {"growth_interval", "_growth_tracker"}


def collect(updater: update.Updater) -> dict[str, Tensors]:
    """Returns all tensors that a resumed run needs, by kind, whole on rank 0; all ranks call it."""
    gathered = updater.layout.gathered
    tensors = {
        WEIGHTS: gathered(weights(updater.model)),
        OPTIMIZER: gathered(optimizers.state_tensors(updater.optimizer)),
    }
    if updater.ema is not None:
        tensors[EMA] = gathered(updater.ema.tensors)
    if updater.scaler.is_enabled():
        tensors[SCALER] = {
            name: torch.tensor(value, dtype=torch.float64)
            for name, value in updater.scaler.state_dict().items()
        }
    return tensors


def restore(updater: update.Updater, tensors: dict[str, Tensors], num_updates: int) -> None:
    """Sets model, optimiser, average and scaler to what `collect` returned.

    Args:
        updater: of the same configuration.
        tensors: by kind.
        num_updates: updates that the run had done.
    """
    layout = updater.layout

    def parts(values: Tensors, like: Tensors) -> Tensors:
        return {name: layout.part(values[name], weight) for name, weight in like.items()}

    load(updater.model, parts(tensors[WEIGHTS], weights(updater.model)))
    optimizers.restore(updater.optimizer, tensors[OPTIMIZER], layout)
    if updater.ema is not None:
        updater.ema.restore(parts(tensors[EMA], updater.ema.tensors), num_updates)
    if updater.scaler.is_enabled() and SCALER in tensors:
        updater.scaler.load_state_dict(
            {
                name: int(tensor.item()) if name in _WHOLE else tensor.item()
                for name, tensor in tensors[SCALER].items()
            }
        )


def weights(model: nn.Module) -> Tensors:
    """Returns the weights of a model as they are trained, tied ones once."""
    return {name: tensor.detach() for name, tensor in model.named_parameters()}


def to_validate(updater: update.Updater) -> Tensors:
    """Returns the weights that are validated and published, whole on rank 0; all ranks call it."""
    average = updater.ema.tensors if updater.ema is not None else {}
    return updater.layout.gathered({**weights(updater.model), **average})


def to_publish(tensors: dict[str, Tensors]) -> Tensors:
    """Returns the weights of a resume state that are validated and published: averages if any."""
    return {**tensors[WEIGHTS], **tensors.get(EMA, {})}


@torch.no_grad()
def load(model: nn.Module, values: Tensors) -> None:
    """Sets the weights of a model."""
    for name, parameter in model.named_parameters():
        parameter.copy_(values[name])


@contextlib.contextmanager
def shown(updater: update.Updater, values: Tensors) -> Iterator[seq2seq.Seq2Seq]:
    """Gives a model with these whole weights, in evaluation mode, until the context ends.

    It is the one that is trained, where that is whole; its own weights are back at the end.
    """
    apart = updater.layout.model_with(values)
    if apart is not None:
        yield apart
        return
    model = updater.model
    before = {name: tensor.clone() for name, tensor in weights(model).items()}
    load(model, values)
    model.eval()
    try:
        yield model
    finally:
        load(model, before)
        model.train()
