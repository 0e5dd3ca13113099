"""Measures what single decisions of the training code are worth, in one process, in turn.

    python scripts/bench_parts.py                       # the Transformer of configs/
    python scripts/bench_parts.py --config configs/multi30k-cnn.yaml

Batches are random ids with lengths like those of captions, so no data is needed. Each round runs
every variant; printed are target tokens per second (padding not counted) and the ratio to the code
as it is, as medians over the rounds, with the range.
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Iterator
from unittest import mock

from nmt.runtime import allocator

allocator.tune()  # before torch is imported, as the command does

import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from nmt.config import loading, schema  # noqa: E402
from nmt.data import batches, corpus, plan  # noqa: E402
from nmt.models import attention, dropout, fused, products, rows, seq2seq  # noqa: E402
from nmt.runtime import device as devices  # noqa: E402
from nmt.runtime import memory  # noqa: E402
from nmt.text import vocab  # noqa: E402
from nmt.training import loss, optimizers, update  # noqa: E402

NUM_PAIRS, NUM_PIECES = 3000, 8000
VOCAB = vocab.Vocab(("",) * NUM_PIECES, unk_id=0, bos_id=1, eos_id=2, pad_id=3)


def fused_attend(query, key, value, mask, *, scale, dropout_rate=0.0):
    """Takes torch's fused kernel in place of three plain products."""
    states = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask.to(query.dtype), dropout_p=dropout_rate, scale=scale
    )
    return states, None


def autograd_attend(query, key, value, mask, *, scale, dropout_rate=0.0):
    """Leaves the gradients of three plain products to autograd."""
    weights = attention.attention_weights(query, key, mask, scale=scale)
    return torch.matmul(dropout.dropout(weights, dropout_rate, True), value), None


def two_step_sum(states, change, rate, training):
    """Makes dropout's result before it is added."""
    return states + dropout.dropout(change, rate, training)


def torch_dropout(states, rate, training):
    """Takes torch's own dropout."""
    return F.dropout(states, rate, training)


def as_it_is() -> contextlib.AbstractContextManager:
    return contextlib.nullcontext()


@contextlib.contextmanager
def torchs_dropout() -> Iterator[None]:
    with (
        mock.patch.object(dropout, "dropout", torch_dropout),
        mock.patch.object(fused, "add_dropped", two_step_sum),
        mock.patch.object(fused, "applies_to", return_value=False),
    ):
        yield


VARIANTS = {
    "as it is": as_it_is,
    "torch's dropout": torchs_dropout,
    "autograd's attention": lambda: mock.patch.object(attention, "attend", autograd_attend),
    "torch's linear layers": lambda: mock.patch.object(fused, "applies_to", return_value=False),
    "dropout, then sum": lambda: mock.patch.object(fused, "add_dropped", two_step_sum),
    "fused attention": lambda: mock.patch.object(attention, "attend", fused_attend),
    "loss in one piece": lambda: mock.patch.object(loss, "CHUNK_ROWS", 10**9),
    "padding, too": lambda: mock.patch.object(rows, "MIN_PADDING", 1.0),
    "a limit of memory": lambda: memory.limited(1 << 20),
    "fp32": as_it_is,
    "fp32, MKL alone": lambda: mock.patch.object(products, "onednn_takes", return_value=False),
}


def random_lengths(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns lengths of sources and targets; a long source has a long target, as in real text."""
    src, ratio = (torch.randn(NUM_PAIRS, generator=generator) for _ in range(2))
    src = src * 4 + 14
    return tuple(x.round().clamp(4, 40).long() for x in (src, src * (1.05 + 0.15 * ratio)))


def random_side(lengths: torch.Tensor, generator: torch.Generator) -> corpus.Side:
    begins = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    ids = torch.randint(4, NUM_PIECES, (int(begins[-1]),), generator=generator)
    return corpus.Side(ids.int(), begins)


def make_batches(config: schema.Config) -> list[batches.Batch]:
    generator = torch.Generator().manual_seed(1)
    src, tgt = (random_side(lengths, generator) for lengths in random_lengths(generator))
    data = corpus.Corpus(src, tgt, (NUM_PAIRS,), "")
    planner = plan.Planner(data, batch_tokens=config.training.batch_tokens, seed=1)
    collator = batches.Collator(data, VOCAB, VOCAB, config.training.max_device_tokens)
    return [collator.collate(indices, plan.Position()) for indices in planner.epoch(0)]


def make_updater(config: schema.Config, precision: str) -> update.Updater:
    torch.manual_seed(1)
    model = seq2seq.build(config.model, NUM_PIECES, NUM_PIECES, shared=True).train()
    arithmetic = devices.training_arithmetic(precision, torch.device("cpu"))
    return update.Updater(
        model, optimizers.build(config.training, model), arithmetic, smoothing=0.1, clip_norm=1.0
    )


def tokens_per_second(updater: update.Updater, work: list[batches.Batch]) -> float:
    began = time.perf_counter()
    for batch in work:
        updater.update(batch.pieces, batch.num_tokens, 1e-4)
    return sum(batch.num_tokens for batch in work) / (time.perf_counter() - began)


def rounds(config: schema.Config, number: int, updates: int) -> Iterator[dict[str, float]]:
    work = make_batches(config)[:updates]
    updaters = {
        name: make_updater(config, "fp32" if name.startswith("fp32") else "auto")
        for name in VARIANTS
    }
    for index in range(number + 1):
        found = {}
        for name, variant in VARIANTS.items():
            with variant():
                found[name] = tokens_per_second(updaters[name], work)
        if index:  # the first round warms up
            yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/multi30k-transformer.yaml")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=6)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    devices.set_up(torch.device("cpu"), args.threads)
    results = list(rounds(loading.load(args.config), args.rounds, args.updates))
    print(f"{args.config}, {torch.get_num_threads()} threads, {args.rounds} rounds")
    for name in VARIANTS:
        speeds = [found[name] for found in results]
        ratios = [found[name] / found["as it is"] for found in results]
        print(
            f"{name:<22} {statistics.median(speeds):>8,.0f} tok/s   "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
