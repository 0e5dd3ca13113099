"""Exactness of the models, for every pair of families and every option (float64)."""

import torch

from nmt.models import state as decoder_state

TOLERANCE = {"rtol": 0.0, "atol": 1e-10}
LENGTHS = [7, 1, 4]


def _targets(rows: int, length: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(4, 11, (rows, length), generator=generator)


@torch.no_grad()
def test_full_forward_equals_step_by_step(variant, build_model, make_sources):
    model, sources = build_model(variant), make_sources(LENGTHS)
    tgt = _targets(3, 21)  # long enough to cross a block of history slots
    full, attention = model(sources.ids, sources.mask, tgt, with_attention=True)
    state = model.start(model.encode(sources.ids, sources.mask))
    for position in range(tgt.shape[1]):
        states, weights, state = model.step(tgt[:, position], state, with_attention=True)
        torch.testing.assert_close(states, full[:, position], **TOLERANCE)
        assert (weights is None) == (attention is None) == (not model.attends)
        if weights is not None:
            torch.testing.assert_close(weights, attention[:, position], **TOLERANCE)


@torch.no_grad()
def test_attention_sums_to_one_over_real_tokens(variant, build_model, make_sources):
    model, sources = build_model(variant), make_sources(LENGTHS)
    _, attention = model(sources.ids, sources.mask, _targets(3, 5), with_attention=True)
    if attention is None:
        assert not model.attends
        return
    torch.testing.assert_close(attention.sum(-1), torch.ones(3, 5).double())
    assert attention.masked_select(~sources.mask.unsqueeze(1)).abs().max() == 0


@torch.no_grad()
def test_alone_equals_in_a_padded_batch(variant, build_model, make_sources):
    model, sources = build_model(variant), make_sources(LENGTHS)
    tgt = _targets(3, 6)
    together, _ = model(sources.ids, sources.mask, tgt)
    for row in range(3):
        alone, _ = model(*sources.alone(row), tgt[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], **TOLERANCE)


@torch.no_grad()
def test_a_prefix_does_not_see_what_follows(variant, build_model, make_sources):
    model, sources = build_model(variant), make_sources(LENGTHS)
    tgt = _targets(3, 6)
    full, _ = model(sources.ids, sources.mask, tgt)
    prefix, _ = model(sources.ids, sources.mask, tgt[:, :4])
    torch.testing.assert_close(prefix, full[:, :4], **TOLERANCE)


@torch.no_grad()
def test_reordering_commutes_with_stepping(variant, build_model, make_sources):
    """A beam of three, reordered twice, equals three separate hypotheses with those prefixes."""
    model, sources = build_model(variant), make_sources(LENGTHS)
    beam, parents = 3, [torch.tensor([[2, 0, 0], [1, 1, 2], [0, 2, 1]])] * 2
    tokens = [_targets(9, 1, seed).squeeze(1) for seed in range(3)]
    memory = model.encode(sources.ids, sources.mask)
    state = decoder_state.expand(model.start(memory), beam)
    prefixes = [[] for _ in range(9)]
    for position in range(3):
        states, _, state = model.step(tokens[position], state)
        prefixes = [[*prefix, int(tokens[position][row])] for row, prefix in enumerate(prefixes)]
        if position < 2:
            state = decoder_state.reorder(state, parents[position])
            prefixes = [
                prefixes[row // beam * beam + int(parents[position][row // beam, row % beam])]
                for row in range(9)
            ]
    for row, prefix in enumerate(prefixes):
        expected, _ = model(*sources.alone(row // beam), torch.tensor([prefix]))
        torch.testing.assert_close(states[row], expected[0, -1], **TOLERANCE)


@torch.no_grad()
def test_keeping_sentences_leaves_the_others_unchanged(variant, build_model, make_sources):
    model, sources = build_model(variant), make_sources(LENGTHS)
    tokens = _targets(6, 4)
    state = decoder_state.expand(model.start(model.encode(sources.ids, sources.mask)), 2)
    for position in range(3):
        _, _, state = model.step(tokens[:, position], state)
    expected, _, _ = model.step(tokens[:, 3], state)
    kept = decoder_state.keep(state, torch.tensor([2, 0]))
    rows = [4, 5, 0, 1]
    found, _, _ = model.step(tokens[rows, 3], kept)
    torch.testing.assert_close(found, expected[rows], **TOLERANCE)


@torch.no_grad()
def test_a_state_is_a_value(variant, build_model, make_sources):
    """Two searches on one model, stepped in turn and from old states again, do not meet."""
    model = build_model(variant)
    first, second = make_sources(LENGTHS, 1), make_sources([5, 5, 2], 2)
    tgt = _targets(3, 6)
    expected = [model(sources.ids, sources.mask, tgt)[0] for sources in (first, second)]
    states = [model.start(model.encode(s.ids, s.mask)) for s in (first, second)]
    for position in range(6):
        for index in (0, 1):
            before = states[index]
            # A branch with other tokens, taken and thrown away, must leave no trace.
            model.step(tgt[:, position].flip(0), before)
            found, _, states[index] = model.step(tgt[:, position], before)
            torch.testing.assert_close(found, expected[index][:, position], **TOLERANCE)
            again, _, _ = model.step(tgt[:, position], before)
            torch.testing.assert_close(again, found, **TOLERANCE)


def test_a_step_costs_the_same_early_and_late(family, build_model, make_sources):
    """The network is never re-run over the prefix: linear layers see one position at any time."""
    model, sources = build_model(family), make_sources(LENGTHS)
    seen: list[int] = []

    def count(_module, inputs, _output):
        seen.extend(entry.numel() for entry in inputs if isinstance(entry, torch.Tensor))

    for module in model.decoder.modules():
        if not list(module.children()):
            module.register_forward_hook(count)
    counts = []
    with torch.no_grad():
        state = model.start(model.encode(sources.ids, sources.mask))
        for token in _targets(1, 30)[0]:
            seen.clear()
            _, _, state = model.step(token.expand(3), state)
            counts.append(sum(seen))
    assert counts[0] == counts[-1]
