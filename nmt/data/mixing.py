"""How much of an epoch each corpus entry has."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Tempered:
    """Temperature sampling: small groups of entries get more than their share.

    Source: Arivazhagan et al. 2019, section 4.2: a group of n pairs is drawn with a probability
    proportional to n ** (1 / temperature). Within a group every pair is as likely as any other.

    Attributes:
        temperature: at least 1, which changes nothing; the larger, the more equal the groups.
        groups: of each entry, the number of its group.
    """

    temperature: float
    groups: tuple[int, ...]

    def weights(self, sizes: Sequence[int]) -> list[float]:
        """Returns the share of each entry, up to a factor.

        Args:
            sizes: pairs of each entry.
        """
        totals: dict[int, int] = {}
        for group, size in zip(self.groups, sizes, strict=True):
            totals[group] = totals.get(group, 0) + size
        return [
            totals[group] ** (1.0 / self.temperature) * size / totals[group]
            for group, size in zip(self.groups, sizes, strict=True)
        ]


Mix = Sequence[float] | Tempered


def weights_of(mix: Mix, sizes: Sequence[int]) -> Sequence[float]:
    """Returns the share of each entry, up to a factor: as it is given, or by temperature."""
    return mix.weights(sizes) if isinstance(mix, Tempered) else mix
