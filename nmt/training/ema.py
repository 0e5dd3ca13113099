"""The exponential moving average of the weights."""

import torch
from torch import nn


class MovingAverage:
    """Follows the trained weights of a model, on their device and in their type.

    The average e of weights w goes e <- d * e + (1 - d) * w at each update, also at one that was
    skipped, where w is what it was before: the average is a function of the sequence of weights
    alone, and no host has to know which updates were taken.

    Attributes:
        tensors: the averages by name, of trained parameters only.
        num_updates: updates followed so far.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Starts from the weights as they are.

        Args:
            model: the bare model.
            decay: d, in (0, 1).
        """
        self._decay = decay
        self._weights = {
            name: parameter.detach()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        self.tensors = {name: weight.clone() for name, weight in self._weights.items()}
        self.num_updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Takes the weights as they are now into the average.

        At the t-th update d is at most (1 + t) / (10 + t), so that the random weights of the start
        have gone after some dozens of updates, and validations in the first thousand say something.
        """
        self.num_updates += 1
        warm_up = (1.0 + self.num_updates) / (10.0 + self.num_updates)
        decay = min(self._decay, warm_up)
        torch._foreach_lerp_(
            list(self.tensors.values()), list(self._weights.values()), weight=1.0 - decay
        )

    @torch.no_grad()
    def restore(self, tensors: dict[str, torch.Tensor], num_updates: int) -> None:
        """Sets the average to a saved one.

        Args:
            tensors: what `tensors` was.
            num_updates: what `num_updates` was.
        """
        for name, average in self.tensors.items():
            average.copy_(tensors[name])
        self.num_updates = num_updates
