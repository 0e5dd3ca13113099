"""Measures Transformer decoders against one with self-attention, in one process, in turn.

    OMP_NUM_THREADS=1 taskset -c 0 python scripts/bench_decoders.py

Weights and sources are random, so neither data nor a trained model is needed; every search goes to
the same length. Timed are the steps of the decoder, its beams reordered after each (*steps*), and
whole searches, with encoder, output layer and selection (*search*). Each round runs every variant.
Printed are milliseconds of processor time a position, of one thread, and how many times as fast as
the baseline that is: medians over the rounds, with the range. The baseline has self-attention and four
layers on each side, the others have as many where they do not say so.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import Any

from nmt.runtime import allocator

allocator.tune()  # before torch is imported, as the command does

import torch  # noqa: E402

from nmt.config import schema  # noqa: E402
from nmt.models import seq2seq  # noqa: E402
from nmt.models import state as decoder_state  # noqa: E402
from nmt.runtime import device as devices  # noqa: E402
from nmt.search import beam  # noqa: E402
from nmt.search import settings as search_settings  # noqa: E402

NUM_PIECES = 8000
IDS = beam.SpecialIds(bos=1, eos=2, pad=3)
BASELINE = "self-attention"
SSRU = {"autoregressive_layer": "ssru"}
AVERAGE = {"autoregressive_layer": "average_attention"}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    BASELINE: ({}, {}),
    "average attention": ({}, AVERAGE),
    "the same, without feed-forward": ({}, AVERAGE | {"average_feedforward": False}),
    "SSRU": ({}, SSRU),
    "SSRU, 7 encoder layers, 1 decoder layer": ({"num_layers": 7}, SSRU | {"num_layers": 1}),
}


def make_models(width: int) -> dict[str, seq2seq.Seq2Seq]:
    shared = {
        "type": "transformer",
        "hidden_size": width,
        "num_heads": max(width // 64, 4),
        "feedforward_size": width * (2 if width < 512 else 4),
    }
    models = {}
    for name, (encoder, decoder) in VARIANTS.items():
        torch.manual_seed(1)
        config = schema.ModelConfig.model_validate(
            {"encoder": shared | encoder, "decoder": shared | decoder}
        )
        models[name] = seq2seq.build(config, NUM_PIECES, NUM_PIECES, shared=True).eval()
    return models


@torch.inference_mode()
def step_seconds(model: seq2seq.Seq2Seq, src: torch.Tensor, beam_size: int, length: int) -> float:
    """Returns the seconds that all steps and reorderings take together."""
    generator = torch.Generator().manual_seed(1)
    memory = model.encode(src, torch.ones_like(src, dtype=torch.bool))
    state = decoder_state.expand(model.start(memory), beam_size)
    shape = (src.shape[0], beam_size)
    began = time.process_time()
    for _ in range(length):
        tokens = torch.randint(4, NUM_PIECES, shape, generator=generator).flatten()
        _, _, state = model.step(tokens, state)
        state = decoder_state.reorder(state, torch.randint(beam_size, shape, generator=generator))
    return time.process_time() - began


def search_seconds(model: seq2seq.Seq2Seq, src: torch.Tensor, beam_size: int, length: int) -> float:
    settings = search_settings.SearchSettings(
        beam_size=beam_size, min_length=length - 1, max_length=length
    )
    began = time.process_time()
    found = beam.search(model, src, torch.ones_like(src, dtype=torch.bool), settings, IDS)
    seconds = time.process_time() - began
    assert all(len(hypotheses[0].tokens) == length - 1 for hypotheses in found), "all are as long"
    return seconds


def rounds(args: argparse.Namespace, width: int) -> Iterator[dict[tuple[str, str], float]]:
    models = make_models(width)
    src = torch.randint(4, NUM_PIECES, (args.batch_size, args.length))
    for index in range(args.rounds + 1):
        found = {}
        for name, model in models.items():
            for part, seconds in (("steps", step_seconds), ("search", search_seconds)):
                found[name, part] = seconds(model, src, args.beam_size, args.length) / args.length
        if index:  # the first round warms up
            yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--beam-size", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--length", type=int, default=16, help="of sources and targets, in tokens")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    devices.set_up(torch.device("cpu"), 1)
    for width in args.widths:
        results = list(rounds(args, width))
        print(f"width {width}, one thread, {args.rounds} rounds", flush=True)
        for name in VARIANTS:
            for part in ("steps", "search"):
                times = [found[name, part] * 1000 for found in results]
                ratios = [found[BASELINE, part] / found[name, part] for found in results]
                print(
                    f"{name:<40} {part:<6} {statistics.median(times):>7.2f} ms   "
                    f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                )


if __name__ == "__main__":
    main()
