"""The loss of alignments, by hand and by its gradient."""

import dataclasses
import math

import pytest
import torch

from nmt.training import guided, loss, update


def test_the_loss_by_hand():
    attention = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.9, 0.0]], [[1.0, 0.0, 0.0]] * 2])
    links = torch.tensor([[0, 1, 1, 3], [1, 0, 1, 2]])
    # Place 0 wants source 1; place 1 halves between 0 and 1; place 3 what has no attention at all.
    wanted = -math.log(0.25) - (math.log(0.1) + math.log(0.9)) / 2 - math.log(1e-10)
    assert float(guided.alignment_loss(attention, links)) == pytest.approx(wanted)
    none = torch.empty(2, 0, dtype=torch.int64)
    assert float(guided.alignment_loss(attention, none)) == 0.0


def test_the_gradient_is_that_of_both_losses(variant, build_model, make_batch):
    model = build_model(variant)
    if not model.attends:
        pytest.skip("has no attention that could be guided")
    (piece,) = make_batch([(5, 3), (2, 7), (6, 6)]).pieces
    width = piece.tgt_in_BT.shape[1]
    links = torch.tensor([[0, 1, width, width + 4, 2 * width + 2], [1, 0, 0, 1, 4]])
    linked = dataclasses.replace(piece, links_2L=links)
    total, nll = update.summed_loss(model, linked, 0.1, guidance=0.7)
    states, attention = model(piece.src_BS, piece.src_mask_BS, piece.tgt_in_BT, with_attention=True)
    plain, plain_nll = loss.smoothed_cross_entropy(
        states.flatten(0, 1)[piece.real_N], model.output.weight, piece.tgt_out_N, 0.1
    )
    wanted = plain + 0.7 * guided.alignment_loss(attention, links)
    assert float(total.detach()) == pytest.approx(float(wanted.detach()))
    assert float(nll) == float(plain_nll)
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    expected = torch.autograd.grad(wanted, parameters, allow_unused=True)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    alone = torch.autograd.grad(
        guided.alignment_loss(
            model(piece.src_BS, piece.src_mask_BS, piece.tgt_in_BT, with_attention=True)[1], links
        ),
        parameters,
        allow_unused=True,
    )
    assert sum(float(g.abs().sum()) for g in alone if g is not None) > 0.01, "attention learns"
    assert float(update.summed_loss(model, linked, 0.1)[0].detach()) == pytest.approx(
        float(plain.detach())
    )
