"""Walks an update and a search of models on a device that computes nothing but checks places.

    python tests/accelerator/walk.py '{"a name": {"encoder": {...}, "decoder": {...}}}' [--stray]

The device is a Python-only PrivateUse1 backend, tensors on it are fake: they have a shape, a dtype
and a device. An operation on tensors of two devices raises, as it would on a real accelerator.
"""

import json
import sys
import warnings

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import backend_registration

from nmt.config import schema
from nmt.data import batches, corpus, plan
from nmt.models import seq2seq
from nmt.runtime import device as devices
from nmt.search import beam, hosting
from nmt.search import settings as search_settings
from nmt.text import vocab
from nmt.training import optimizers, update

# Nested lists of numbers, as a device hands them out.
Numbers = list["Numbers"] | bool | int | float

NAME = "fakegpu"
VOCAB = vocab.Vocab(tuple("?<>_abcdefgh"), unk_id=0, bos_id=1, eos_id=2, pad_id=3)
SENTENCES = [[4, 5, 6], [7], [8, 9, 10, 11]]


class _Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]


def set_up() -> torch.device:
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    library = torch.library.Library("_", "IMPL")
    library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    # What an accelerator fuses a GRU cell into has no shapes for fake tensors in torch itself.
    shapes = torch.library.Library("aten", "IMPL")
    shapes.impl("_thnn_fused_gru_cell", gru_cell, "Meta")
    shapes.impl("_thnn_fused_gru_cell_backward", gru_cell_backward, "Meta")
    set_up.kept = (library, shapes)  # a library that is freed takes its kernels with it
    return torch.device(NAME)


def gru_cell(input_gates, hidden_gates, state, input_bias=None, hidden_bias=None):
    """Returns the next state [N, D] and what backward needs, [N, 5 D]."""
    rows, size = state.shape
    return torch.empty_like(state), state.new_empty((rows, 5 * size))


def gru_cell_backward(grad_state, workspace, has_bias):
    """Returns the gradients of both gates, the state and both biases."""
    rows, size = grad_state.shape
    gates = [grad_state.new_empty((rows, 3 * size)) for _ in range(2)]
    biases = [grad_state.new_empty(3 * size) if has_bias else None for _ in range(2)]
    return (*gates, torch.empty_like(grad_state), *biases)


def host_batch() -> batches.Batch:
    """Returns a real batch, made as training makes it."""
    ids = torch.tensor([token for sentence in SENTENCES for token in sentence], dtype=torch.int32)
    begins = torch.tensor([0, *(len(sentence) for sentence in SENTENCES)]).cumsum(0)
    side = corpus.Side(ids, begins)
    data = corpus.Corpus(side, side, (len(SENTENCES),), "")
    return batches.Collator(data, VOCAB, VOCAB, None).collate(
        torch.arange(len(SENTENCES)), plan.Position()
    )


def walk(options: dict, device: torch.device, *, stray: bool) -> None:
    batch = host_batch()
    config = schema.ModelConfig.model_validate(options)
    training = schema.TrainingConfig(max_updates=2, optimizer="adamw")
    arithmetic = devices.Arithmetic(device, "bf16", torch.float32, torch.bfloat16)
    mode = FakeTensorMode()
    with mode:
        with torch.device(device):
            model = seq2seq.build(config, len(VOCAB), len(VOCAB), shared=True).train()
        updater = update.Updater(
            model,
            optimizers.build(training, model),
            arithmetic,
            smoothing=0.1,
            clip_norm=1.0,
            guidance=0.5 if model.attends else 0.0,
        )
        stream = devices.SideStream(device)
        pieces = []
        for piece in batch.pieces:
            values = vars(piece) | {"links_2L": torch.tensor([[0, 1], [1, 0]])}
            tensors = {name: mode.from_tensor(t) for name, t in values.items()}
            copied = stream.copy(tensors)
            if stray:
                copied["src_mask_BS"] = tensors["src_mask_BS"]
            pieces.append(batches.Piece(**copied))
        result = updater.update(pieces, batch.num_tokens, 0.001)
        assert result.loss.device.type == result.grad_norm.device.type == NAME
        assert all(parameter.grad.device.type == NAME for parameter in model.parameters())
        search(model.eval(), pieces[0])


def search(model: seq2seq.Seq2Seq, piece: batches.Piece) -> None:
    """Walks a search in which one sentence is done at once, so that the others are compacted."""
    num_asked = 0

    def scripted(tensor: torch.Tensor) -> Numbers:
        nonlocal num_asked
        assert tensor.device.type == NAME
        num_asked += 1
        if tensor.dtype == torch.bool:
            return [num_asked > 3 or row == 0 for row in range(tensor.shape[0])]
        return zeros(tensor.shape)

    def made(numbers: list, device: torch.device) -> torch.Tensor:
        return torch.empty(torch.tensor(numbers).shape, dtype=torch.int64, device=device)

    def made_floats(numbers: list[float], device: torch.device) -> torch.Tensor:
        return torch.empty(len(numbers), dtype=torch.float64, device=device)

    # In inference mode torch copies to a made-up device by a way that fake tensors do not know.
    hosting.to_host, hosting.to_device, hosting.floats_to_device = scripted, made, made_floats
    ids = beam.SpecialIds(bos=VOCAB.bos_id, eos=VOCAB.eos_id, pad=VOCAB.pad_id)
    penalties = {"no_repeat_ngram_size": 2, "repetition_penalty": 1.5, "min_length": 1}
    penalties |= {"coverage_penalty": 0.1} if model.attends else {}
    for settings, phrases in (
        ({"beam_size": 3}, {}),
        ({"beam_size": 3, **penalties}, {"prefix": (5,), "avoid": ((8, 9), (9,))}),
        ({"beam_size": 4, "diversity_groups": 2, "diversity_penalty": 0.5}, {}),
        ({"sample": True, "temperature": 0.7, "top_k": 3, "top_p": 0.9}, {}),
        ({"beam_size": 3, "exact_stop": True}, {"constraints": ((5, 6), (7,))}),
    ):
        num_asked = 0
        request = search_settings.Request(
            search_settings.SearchSettings(num_best=2, **settings), **phrases
        )
        requests = [request] * len(SENTENCES)
        found = beam.search(model, piece.src_BS, piece.src_mask_BS, requests, ids)
        assert [len(hypotheses) for hypotheses in found] == [2] * len(SENTENCES)


def zeros(shape: torch.Size) -> Numbers:
    return [zeros(shape[1:]) for _ in range(shape[0])] if shape else 0


def main() -> None:
    # Not before: what torch says when it is imported on this machine is not ours.
    warnings.simplefilter("error")
    device = set_up()
    for name, options in json.loads(sys.argv[1]).items():
        walk(options, device, stray="--stray" in sys.argv)
        print(name, flush=True)


if __name__ == "__main__":
    main()
