"""What an ensemble is to search besides its probabilities, which tests/exactness looks at."""

import pytest
import torch

from nmt.models import state as decoder_state
from nmt.search import beam, ensemble
from nmt.search import settings as search_settings

IDS = beam.SpecialIds(bos=1, eos=2, pad=3)
RNN = {"type": "rnn", "embedding_size": 6, "hidden_size": 8}
CNN = {"type": "cnn", "embedding_size": 6, "hidden_size": 6}
TRANSFORMER = {"type": "transformer", "hidden_size": 8, "num_heads": 2, "num_layers": 1}
LENGTHS = [5, 2, 3]


def test_the_limits_of_an_ensemble_are_the_smallest_of_its_models(build_model):
    limitless = build_model((RNN, RNN))
    short = build_model((CNN | {"max_positions": 30}, CNN | {"max_positions": 50}))
    shorter = build_model((CNN | {"max_positions": 40}, CNN | {"max_positions": 20}))
    joined = ensemble.Ensemble([limitless, short, shorter])
    assert (joined.max_src_positions, joined.max_tgt_positions) == (30, 20)
    joined = ensemble.Ensemble([limitless, limitless])
    assert joined.max_src_positions is joined.max_tgt_positions is None


@torch.no_grad()
def test_the_attention_of_an_ensemble_is_the_mean_of_its_models(build_model, make_sources):
    models = [build_model((side, side)) for side in (RNN, CNN, TRANSFORMER)]
    sources, tokens = make_sources(LENGTHS), torch.tensor([4, 5, 6])
    joined = ensemble.Ensemble(models)
    assert joined.attends
    state = joined.start(joined.encode(sources.ids, sources.mask))
    _, found, _ = joined.step(tokens, state, with_attention=True)
    weights = []
    for model in models:
        own = model.start(model.encode(sources.ids, sources.mask))
        weights.append(model.step(tokens, own, with_attention=True)[1])
    torch.testing.assert_close(found, torch.stack(weights).mean(0))
    assert joined.step(tokens, state)[1] is None


@torch.no_grad()
def test_an_ensemble_attends_only_if_all_its_models_do(build_model, make_sources):
    models = [build_model((RNN, RNN)), build_model((RNN, RNN | {"attention": "none"}))]
    sources = make_sources(LENGTHS)
    for order in (models, models[::-1]):
        joined = ensemble.Ensemble(order)
        assert not joined.attends
        state = joined.start(joined.encode(sources.ids, sources.mask))
        assert joined.step(torch.tensor([4, 5, 6]), state, with_attention=True)[1] is None


@torch.no_grad()
def test_a_shortlist_takes_columns_of_the_mean(build_model, make_sources):
    models = [build_model((side, side)) for side in (RNN, CNN)]
    joined, sources = ensemble.Ensemble(models), make_sources(LENGTHS)
    state = joined.start(joined.encode(sources.ids, sources.mask))
    states, _, _ = joined.step(torch.tensor([4, 5, 6]), state)
    chosen = torch.tensor([9, 2])
    assert torch.equal(joined.logits(states, chosen), joined.logits(states)[:, chosen])
    torch.testing.assert_close(states.exp().sum(-1), torch.ones(3).double())


@pytest.mark.parametrize("order", [(RNN, TRANSFORMER), (TRANSFORMER, RNN), (CNN, TRANSFORMER)])
def test_a_model_without_history_searches_beside_one_with_it(build_model, make_sources, order):
    """The forced score of what is found is the log of the mean probability, token by token."""
    models = [build_model((side, side), seed=seed) for seed, side in enumerate(order)]
    sources = make_sources(LENGTHS)
    settings = search_settings.SearchSettings(beam_size=3, max_length=12, length_penalty=0.0)
    found = beam.search(ensemble.Ensemble(models), sources.ids, sources.mask, settings, IDS)
    for row, hypotheses in enumerate(found):
        tokens = [*hypotheses[0].tokens, IDS.eos]
        inputs = torch.tensor([[IDS.bos, *tokens[:-1]]])
        with torch.no_grad():
            probabilities = torch.stack(
                [
                    model.logits(model(*sources.alone(row), inputs)[0])[0].softmax(-1)
                    for model in models
                ]
            ).mean(0)
        forced = probabilities[torch.arange(len(tokens)), tokens].log().sum()
        assert hypotheses[0].score == pytest.approx(float(forced), abs=1e-9)


@torch.no_grad()
def test_a_dozen_models_keep_their_states_apart(build_model, make_sources):
    """Their entries are told apart by number, and 1 is not 11."""
    models = [build_model((RNN, RNN), seed=seed) for seed in range(12)]
    sources = make_sources(LENGTHS)
    joined = ensemble.Ensemble(models)
    state = joined.start(joined.encode(sources.ids, sources.mask))
    own = [model.start(model.encode(sources.ids, sources.mask)) for model in models]
    for token in (1, 5, 6):
        tokens = torch.full((3,), token)
        states, _, state = joined.step(tokens, state)
        outputs = []
        for index, model in enumerate(models):
            hidden, _, own[index] = model.step(tokens, own[index])
            outputs.append(model.logits(hidden).softmax(-1))
    torch.testing.assert_close(states, torch.stack(outputs).mean(0).log())


@torch.no_grad()
def test_the_joined_state_is_kept_and_expanded_as_any_other(build_model, make_sources):
    models = [build_model((side, side)) for side in (TRANSFORMER, CNN)]
    joined, sources = ensemble.Ensemble(models), make_sources(LENGTHS)
    state = decoder_state.expand(joined.start(joined.encode(sources.ids, sources.mask)), 2)
    tokens = torch.tensor([4, 5, 6, 7, 8, 9])
    _, _, state = joined.step(tokens, state)
    expected, _, _ = joined.step(tokens, state)
    kept = decoder_state.keep(state, torch.tensor([2, 0]))
    rows = [4, 5, 0, 1]
    found, _, _ = joined.step(tokens[rows], kept)
    torch.testing.assert_close(found, expected[rows])


@torch.no_grad()
def test_hypotheses_that_part_after_a_position_leave_no_slot_between(build_model, make_sources):
    joined, sources = (
        ensemble.Ensemble([build_model((TRANSFORMER, TRANSFORMER))] * 2),
        make_sources([3]),
    )
    state = joined.start(joined.encode(sources.ids, sources.mask))
    _, _, state = joined.step(torch.tensor([1]), state)
    _, _, state = joined.step(torch.tensor([4, 5]), decoder_state.expand(state, 2))
    assert state.num_slots == 3
    seen = (state.visible_BKL == 0).tolist()
    assert [row[:4] for row in seen[0]] == [[True, True, False, False], [True, False, True, False]]


@torch.no_grad()
def test_weights_are_shares_of_the_probabilities(build_model, make_sources):
    """7 to 3 is 0.7 to 0.3, step by step and all at once, in models of different families."""
    models = [build_model((side, side), seed=seed) for seed, side in enumerate((RNN, TRANSFORMER))]
    sources = make_sources(LENGTHS)
    joined = ensemble.Ensemble(models, [7.0, 3.0])
    inputs = torch.tensor([[1, 5, 6], [1, 7, 8], [1, 9, 4]])
    parts = [model(sources.ids, sources.mask, inputs, with_attention=True) for model in models]
    probabilities = [
        model.logits(states).softmax(-1) for model, (states, _) in zip(models, parts, strict=True)
    ]
    wanted = 0.7 * probabilities[0] + 0.3 * probabilities[1]
    states, attention = joined(sources.ids, sources.mask, inputs, with_attention=True)
    torch.testing.assert_close(joined.logits(states).exp(), wanted)
    torch.testing.assert_close(attention, 0.7 * parts[0][1] + 0.3 * parts[1][1])
    assert joined(sources.ids, sources.mask, inputs)[1] is None
    state = joined.start(joined.encode(sources.ids, sources.mask))
    for position in range(3):
        states, _, state = joined.step(inputs[:, position], state)
        torch.testing.assert_close(joined.logits(states).exp(), wanted[:, position])
