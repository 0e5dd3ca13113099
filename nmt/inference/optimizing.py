"""Which precision a model is to translate with on this processor: measured, then chosen by a rule."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nmt.evaluation import metrics
from nmt.inference import outcomes

REFERENCE = "fp32"
# What may be lost against float32, in BLEU.
MAX_LOSS = 0.2
# Lines that each side translates before the next one has its turn.
TURN_LINES = 128

Translate = Callable[[Sequence[str]], list[list[outcomes.Translation]]]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """How one way of translating did.

    Attributes:
        name: of the way; `REFERENCE` is what the others are held against.
        bleu: on the whole corpus.
        signature: how BLEU was computed.
        tokens_per_second: target tokens, EOS included.
    """

    name: str
    bleu: float
    signature: str
    tokens_per_second: float

    def as_json(self) -> dict[str, Any]:
        """Returns what a model folder keeps of it."""
        return {
            "name": self.name,
            "bleu": round(self.bleu, 2),
            "tokens_per_second": round(self.tokens_per_second),
        }


def measure(
    ways: Mapping[str, Translate],
    sources: Sequence[str],
    references: Sequence[str],
    *,
    clock: Callable[[], float],
) -> list[Measurement]:
    """Translates a corpus in each way, in turn, and returns how each did, in the order given.

    The ways take turns of `TURN_LINES` lines, and begin in another order each time, so that whatever
    else the machine does meanwhile slows all of them. The first turn is gone through once before, for
    what is set up at first use.

    Args:
        ways: by name.
        sources: at least one line.
        references: as many.
        clock: seconds.
    """
    for translate in ways.values():
        translate(sources[:TURN_LINES])
    texts: dict[str, list[str]] = {name: [] for name in ways}
    seconds = dict.fromkeys(ways, 0.0)
    num_tokens = dict.fromkeys(ways, 0)
    names = list(ways)
    for begin in range(0, len(sources), TURN_LINES):
        chunk = sources[begin : begin + TURN_LINES]
        for name in names:
            before = clock()
            found = ways[name](chunk)
            seconds[name] += clock() - before
            texts[name] += [one[0].text for one in found]
            num_tokens[name] += sum(len(one[0].tokens) + 1 for one in found)
        names = names[1:] + names[:1]
    results = []
    for name in ways:
        score = metrics.score("bleu", texts[name], [references], metrics.MetricSettings())
        speed = num_tokens[name] / max(seconds[name], 1e-9)
        results.append(Measurement(name, score.value, score.signature, speed))
    return results


def choose(measurements: Sequence[Measurement], *, max_loss: float = MAX_LOSS) -> Measurement:
    """Returns the fastest measurement whose BLEU is at most `max_loss` below that of `REFERENCE`.

    Args:
        measurements: `REFERENCE` among them.
        max_loss: in BLEU, not negative; what is better than the reference is no loss.
    """
    reference = next(one for one in measurements if one.name == REFERENCE)
    # Rounded as it is printed, or a loss of 0.2 could be refused for what nobody sees.
    good = [one for one in measurements if round(reference.bleu - one.bleu, 2) <= max_loss]
    return max(good, key=lambda one: one.tokens_per_second)


def table(measurements: Sequence[Measurement], chosen: Measurement) -> list[str]:
    """Returns the lines of a small table; the chosen one is marked."""
    width = max(len("precision"), *(len(one.name) for one in measurements))
    lines = [f"{'precision':<{width}}  {'BLEU':>6}  {'tokens/s':>9}"]
    for one in measurements:
        mark = "  <- chosen" if one is chosen else ""
        lines.append(f"{one.name:<{width}}  {one.bleu:>6.2f}  {one.tokens_per_second:>9,.0f}{mark}")
    return lines
