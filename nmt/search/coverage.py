"""How much of the source a hypothesis has attended to (Wu et al. 2016, equation 14)."""

import dataclasses
from collections.abc import Sequence

import torch

from nmt.search import hosting
from nmt.search import settings as search_settings

# A position that got no attention at all would cost -inf, whatever else was said.
SMALLEST = 1e-10


@dataclasses.dataclass(frozen=True)
class Coverage:
    """Attention that each hypothesis has paid to each source position so far.

    Attributes:
        weights_B: beta; 0 for sentences without this penalty.
        src_mask_BS: bool, True at real tokens.
        sums_BKS: attention summed over the target positions so far.
    """

    weights_B: torch.Tensor
    src_mask_BS: torch.Tensor
    sums_BKS: torch.Tensor

    def keep(self, chosen: torch.Tensor) -> "Coverage":
        """Returns that of these sentences only."""
        return Coverage(
            self.weights_B.index_select(0, chosen),
            self.src_mask_BS.index_select(0, chosen),
            self.sums_BKS.index_select(0, chosen),
        )

    def add(self, attention_NS: torch.Tensor) -> "Coverage":
        """Returns the coverage after one more position."""
        attention_BKS = attention_NS.view(self.sums_BKS.shape)
        return dataclasses.replace(self, sums_BKS=self.sums_BKS + attention_BKS)

    def reorder(self, parents_BK: torch.Tensor) -> "Coverage":
        """Returns that of the hypotheses which continue these parents."""
        places_BKS = parents_BK.unsqueeze(2).expand(-1, -1, self.sums_BKS.shape[2])
        return dataclasses.replace(self, sums_BKS=self.sums_BKS.gather(1, places_BKS))

    def penalties(self) -> torch.Tensor:
        """Returns what is added to the score of each hypothesis [B, K], 0 at most.

        Source: Wu et al. 2016, equation 14: beta * sum over i of log(min(sum over j of p_ij, 1)).
        """
        logs_BKS = self.sums_BKS.clamp(SMALLEST, 1.0).log()
        logs_BKS = logs_BKS.masked_fill(~self.src_mask_BS[:, None], 0.0)
        return logs_BKS.sum(2) * self.weights_B.to(logs_BKS.dtype)[:, None]


def start(
    requests: Sequence[search_settings.Request], src_mask_BS: torch.Tensor, num_hypotheses: int
) -> Coverage | None:
    """Returns the coverage before the first token, or None if no sentence asks for it."""
    weights = [request.settings.coverage_penalty for request in requests]
    if not any(weights):
        return None
    num_sentences, length = src_mask_BS.shape
    sums_BKS = torch.zeros(
        (num_sentences, num_hypotheses, length), dtype=torch.float32, device=src_mask_BS.device
    )
    return Coverage(hosting.floats_to_device(weights, src_mask_BS.device), src_mask_BS, sums_BKS)
