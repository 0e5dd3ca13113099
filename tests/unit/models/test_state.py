"""The decoder state as a value, by small worked examples."""

import dataclasses

import pytest
import torch

from nmt.models import state as decoder_state

INF = float("inf")


def _entries(*numbers: float) -> torch.Tensor:
    """Entries [1, 1, K, 1] of one sentence and one head."""
    return torch.tensor(numbers).view(1, 1, -1, 1)


def _empty(sentences: int = 1) -> decoder_state.History:
    return decoder_state.History.empty(torch.zeros(sentences, 1, 9, 1))


def _slots(history: decoder_state.History, length: int) -> list[float]:
    """The filled slots of the first sentence, after a look at what is behind them."""
    slots = history.padded(length)[0, 0, :, 0].tolist()
    assert len(slots) == decoder_state.padded_length(length)
    return slots[:length]


@pytest.mark.parametrize(
    ("length", "padded"), [(0, 0), (1, 16), (15, 16), (16, 16), (17, 32), (160, 160), (161, 176)]
)
def test_lengths_are_padded_to_whole_blocks(length, padded):
    assert decoder_state.SLOT_BLOCK == 16
    assert decoder_state.padded_length(length) == padded


def test_a_history_starts_empty_with_the_other_axes_of_its_model():
    history = decoder_state.History.empty(torch.ones(2, 3, 7, 5, dtype=torch.float64))
    assert history.padded(0).shape == (2, 3, 0, 5)
    assert history.append(torch.ones(2, 3, 1, 5), 0).padded(1).shape == (2, 3, 16, 5)


def test_appended_entries_come_back_in_order():
    history = _empty()
    for position in range(40):
        entries = _entries(10.0 * position, 10.0 * position + 1)
        history = history.append(entries, 2 * position)
    expected = [10.0 * position + k for position in range(40) for k in (0, 1)]
    assert _slots(history, 80) == expected
    assert _slots(history, 6) == expected[:6]


def test_slots_behind_the_end_are_zero():
    """They are multiplied by weights of zero, and zero times anything but a number is not zero."""
    history = _empty().append(_entries(5.0, 6.0), 0)
    assert history.padded(2)[0, 0, 2:].abs().max() == 0


def test_the_newest_value_appends_in_place_and_an_older_one_to_a_copy():
    first = _empty().append(_entries(1.0), 0)
    second = first.append(_entries(2.0), 1)
    assert second.padded(2).data_ptr() == first.padded(1).data_ptr()
    # The value of length 1 is stepped again: what the value of length 2 holds must stay.
    other = first.append(_entries(3.0), 1)
    assert other.padded(2).data_ptr() != second.padded(2).data_ptr()
    assert _slots(second, 2) == [1.0, 2.0]
    assert _slots(other, 2) == [1.0, 3.0]
    # And both go on, each its own way.
    third, fourth = second.append(_entries(4.0), 2), other.append(_entries(5.0), 2)
    assert _slots(third, 3) == [1.0, 2.0, 4.0]
    assert _slots(fourth, 3) == [1.0, 3.0, 5.0]


def test_a_much_older_value_is_continued_without_what_came_later():
    history = _empty()
    for position in range(40):
        history = history.append(_entries(float(position)), position)
    early = history.append(_entries(9.0), 2)
    assert _slots(early, 3) == [0.0, 1.0, 9.0]
    assert early.padded(3)[:, :, 3:].count_nonzero() == 0
    assert _slots(history, 40) == [float(position) for position in range(40)]


def test_growing_copies_seldom():
    """Growth by half keeps the copies linear: 3,000 appends, and a dozen copies or so."""
    history, buffers = _empty(), set()
    for position in range(3000):
        history = history.append(_entries(float(position)), position)
        buffers.add(history.padded(1).data_ptr())
    assert _slots(history, 3000) == [float(position) for position in range(3000)]
    assert len(buffers) < 20


def test_a_history_keeps_sentences_in_their_new_order_and_in_memory_of_their_own():
    entries = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1)
    history = _empty(3).append(entries, 0)
    kept = history.keep(torch.tensor([2, 0]))
    assert kept.padded(1)[:, 0, 0, 0].tolist() == [3.0, 1.0]
    kept = kept.append(torch.tensor([7.0, 8.0]).view(2, 1, 1, 1), 1)
    assert kept.padded(2)[:, 0, :2, 0].tolist() == [[3.0, 7.0], [1.0, 8.0]]
    assert history.padded(1)[:, 0, :3, 0].tolist() == [[1.0, 0, 0], [2.0, 0, 0], [3.0, 0, 0]]


def _example() -> decoder_state.DecoderState:
    """The example of the module's docstring: slots a0 b0 a1 b1, both hypotheses out of a0."""
    state = decoder_state.DecoderState(
        sentence={"memory": torch.tensor([[5.0]])},
        hypothesis={"cell": torch.tensor([[1.0]])},
        history={"key": _empty()},
        visible_BKL=decoder_state.start_history(1, torch.zeros(1)),
        fixed={"weight": torch.tensor([3.0])},
    )
    state = decoder_state.expand(state, 2)
    for position in range(2):
        visible_BKL = decoder_state.see_own_slot(state)
        key = state.history["key"].append(
            _entries(10.0 + position, 20.0 + position), state.num_slots
        )
        state = decoder_state.DecoderState(
            position=position + 1,
            num_hypotheses=2,
            sentence=state.sentence,
            hypothesis={"cell": torch.tensor([[10.0 + position], [20.0 + position]])},
            history={"key": key},
            visible_BKL=visible_BKL,
            fixed=state.fixed,
        )
        if position == 0:
            state = decoder_state.reorder(state, torch.tensor([[0, 0]]))
    return state


def _seen(state: decoder_state.DecoderState) -> list[list[float]]:
    """What each hypothesis of the first sentence sees of the history."""
    assert state.visible_BKL is not None
    slots = state.history["key"].padded(state.num_slots)[0, 0, :, 0]
    assert set(state.visible_BKL.flatten().tolist()) <= {0.0, -INF}
    return [slots[row == 0].tolist() for row in state.visible_BKL[0]]


def test_hypotheses_see_their_own_ancestors():
    state = _example()
    assert state.num_slots == 4
    assert _slots(state.history["key"], 4) == [10.0, 20.0, 11.0, 21.0]
    assert _seen(state) == [[10.0, 11.0], [10.0, 21.0]]


def test_the_mask_has_whole_blocks_and_hides_empty_slots():
    state = _example()
    assert state.visible_BKL is not None
    assert state.visible_BKL.shape == (1, 2, 16)
    assert (state.visible_BKL[:, :, 4:] == -INF).all()
    state = decoder_state.DecoderState(
        position=8, num_hypotheses=2, visible_BKL=torch.zeros(1, 2, 16)
    )
    wider = decoder_state.see_own_slot(state)  # 16 slots are full, so a second block begins
    assert wider.shape == (1, 2, 32)
    assert (wider[0, :, :16] == 0).all()
    assert wider[0, :, 16:18].tolist() == [[0, -INF], [-INF, 0]]
    assert (wider[0, :, 18:] == -INF).all()


def test_seeing_an_own_slot_leaves_the_state_as_it_was():
    state = _example()
    before = _seen(state)
    decoder_state.see_own_slot(state)
    assert _seen(state) == before


def test_expanding_repeats_the_hypotheses_of_each_sentence_side_by_side():
    state = decoder_state.DecoderState(
        sentence={"memory": torch.tensor([[1.0], [2.0]])},
        hypothesis={"cell": torch.tensor([[3.0], [4.0]])},
        visible_BKL=decoder_state.start_history(2, torch.zeros(1)),
    )
    wide = decoder_state.expand(state, 3)
    assert wide.num_hypotheses == 3
    assert wide.hypothesis["cell"].flatten().tolist() == [3.0] * 3 + [4.0] * 3
    assert wide.sentence is state.sentence  # the beams of a sentence share its memory
    assert wide.visible_BKL is not None and wide.visible_BKL.shape == (2, 3, 0)
    assert state.num_hypotheses == 1 and len(state.hypothesis["cell"]) == 2


def test_only_single_hypotheses_are_expanded():
    with pytest.raises(AssertionError, match="single"):
        decoder_state.expand(decoder_state.DecoderState(num_hypotheses=2), 4)


def test_hypotheses_that_part_late_share_the_slots_before():
    state = decoder_state.DecoderState(
        history={"key": _empty()}, visible_BKL=decoder_state.start_history(1, torch.zeros(1))
    )

    def after(*values: float) -> decoder_state.DecoderState:
        visible_BKL = decoder_state.see_own_slot(state)
        key = state.history["key"].append(torch.tensor(values).view(1, 1, -1, 1), state.num_slots)
        return dataclasses.replace(
            state, position=state.position + 1, history={"key": key}, visible_BKL=visible_BKL
        )

    state = after(1.0)
    state = decoder_state.expand(state, 2)
    assert (state.num_slots, state.num_shared) == (1, 1)
    state = after(20.0, 30.0)
    state = decoder_state.reorder(state, torch.tensor([[1, 1]]))
    state = after(21.0, 31.0)
    assert state.num_slots == 5
    assert _slots(state.history["key"], 5) == [1.0, 20.0, 30.0, 21.0, 31.0]
    assert _seen(state) == [[1.0, 30.0, 21.0], [1.0, 30.0, 31.0]]


def test_reordering_moves_hypotheses_within_their_sentence_and_no_history():
    state = decoder_state.DecoderState(
        position=1,
        num_hypotheses=3,
        sentence={"memory": torch.tensor([[1.0], [2.0]])},
        hypothesis={"cell": torch.arange(6.0).unsqueeze(1)},
        history={"key": _empty(2)},
        visible_BKL=torch.arange(6.0).view(2, 3, 1),
    )
    moved = decoder_state.reorder(state, torch.tensor([[2, 2, 0], [1, 0, 1]]))
    assert moved.hypothesis["cell"].flatten().tolist() == [2, 2, 0, 4, 3, 4]
    assert moved.visible_BKL is not None
    assert moved.visible_BKL.flatten().tolist() == [2, 2, 0, 4, 3, 4]
    assert moved.sentence is state.sentence
    assert moved.history is state.history
    assert moved.position == 1 and moved.num_hypotheses == 3
    assert state.hypothesis["cell"].flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_a_state_without_history_is_reordered_and_kept_too():
    state = decoder_state.DecoderState(num_hypotheses=2, hypothesis={"x": torch.arange(4.0)})
    assert decoder_state.reorder(state, torch.tensor([[1, 0], [1, 1]])).visible_BKL is None
    kept = decoder_state.keep(state, torch.tensor([1]))
    assert kept.visible_BKL is None
    assert kept.hypothesis["x"].tolist() == [2, 3]


def test_keeping_takes_all_that_belongs_to_a_sentence_and_leaves_weights_alone():
    history = _empty(3).append(torch.arange(6.0).view(3, 1, 2, 1), 0)
    state = decoder_state.DecoderState(
        position=1,
        num_hypotheses=2,
        sentence={"memory": torch.tensor([[10.0], [11.0], [12.0]])},
        hypothesis={"cell": torch.arange(6.0).unsqueeze(1)},
        history={"key": history},
        visible_BKL=torch.arange(6.0).view(3, 2, 1),
        fixed={"weight": torch.tensor([7.0])},
    )
    kept = decoder_state.keep(state, torch.tensor([2, 0]))
    assert kept.sentence["memory"].flatten().tolist() == [12, 10]
    assert kept.hypothesis["cell"].flatten().tolist() == [4, 5, 0, 1]
    assert kept.history["key"].padded(2)[:, 0, :2, 0].tolist() == [[4, 5], [0, 1]]
    assert kept.visible_BKL is not None
    assert kept.visible_BKL.flatten().tolist() == [4, 5, 0, 1]
    assert kept.fixed is state.fixed
    assert kept.position == 1 and kept.num_hypotheses == 2
    assert state.sentence["memory"].shape == (3, 1)


def test_an_old_value_that_is_kept_goes_on_without_what_came_later():
    first = _empty(2).append(torch.tensor([1.0, 2.0]).view(2, 1, 1, 1), 0)
    first.append(torch.tensor([3.0, 4.0]).view(2, 1, 1, 1), 1)
    kept = first.keep(torch.tensor([1])).append(_entries(9.0), 1)
    assert _slots(kept, 2) == [2.0, 9.0]


def test_padding_a_memory_changes_nothing_that_is_real(make_memory):
    memory = make_memory([3, 1], 4)
    padded = memory.padded_to(5)
    assert padded.mask_BS.tolist() == [[True] * 3 + [False] * 2, [True] + [False] * 4]
    for name in ("states_BSM", "values_BSM"):
        tensor = getattr(padded, name)
        assert tensor.shape == (2, 5, 4)
        assert torch.equal(tensor[:, :3], getattr(memory, name))
        assert tensor[:, 3:].abs().max() == 0
    assert padded.pooled_BM is memory.pooled_BM
