"""Where the tensors of a run are: whole on every process, or in parts over all of them.

Updates, resume states and validation ask a layout for what they need, so that none of them asks how
many processes there are. `Whole` is the layout of all runs but those with `training.sharding: full`, whose
is in `sharding`; that module is apart since it imports much of torch, which takes a second.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

import torch

from nmt.models import seq2seq

T = TypeVar("T")


class Layout(Protocol):
    """Where the tensors are; every method but `replicated` and `part` is called by all ranks alike."""

    @property
    def is_sharded(self) -> bool:
        """Whether ranks need each other for every forward pass."""

    def run(self, action: Callable[[], T]) -> T:
        """Returns what the action returns, which uses the model and its weights.

        Args:
            action: ends in tensors, on whose way back gradients are summed over the ranks if they are
                sharded.
        """

    def in_touch(self) -> AbstractContextManager[None]:
        """Turns what torch raises when another rank does not answer into an error of the run."""

    def gathered(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Returns whole tensors, of which all have to be there on rank 0 only.

        Args:
            tensors: by name, in the same order on all ranks.
        """

    def part(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Returns what this rank keeps of a tensor.

        Args:
            whole: of all ranks, the same on each.
            like: a parameter, or something of its shape, that is laid out already.
        """

    def replicated(self, number: torch.Tensor) -> torch.Tensor:
        """Returns a number that all ranks have alike, for operations together with sharded tensors."""

    def plain(self, number: torch.Tensor) -> torch.Tensor:
        """Returns a number that was computed from all parts as a plain tensor, alike on all ranks."""

    def model_with(self, weights: Mapping[str, torch.Tensor]) -> seq2seq.Seq2Seq | None:
        """Returns a model for this rank alone, or None if the one that is trained is whole.

        Args:
            weights: whole, by name.
        """


class Whole:
    """Every process has everything."""

    is_sharded = False

    def run(self, action: Callable[[], T]) -> T:
        """Returns what the action returns."""
        return action()

    def in_touch(self) -> AbstractContextManager[None]:
        """Returns a context that does nothing: there is no exchange that the group does not know of."""
        return nullcontext()

    def gathered(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Returns the tensors."""
        return dict(tensors)

    def part(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Returns the whole."""
        return whole

    def replicated(self, number: torch.Tensor) -> torch.Tensor:
        """Returns the number."""
        return number

    plain = replicated

    def model_with(self, weights: Mapping[str, torch.Tensor]) -> seq2seq.Seq2Seq | None:
        """Returns None."""
        return None
