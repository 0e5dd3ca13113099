"""How a run counts: bests, patience, plateaus, limits, and what a resume state keeps of it."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from nmt.config import schema
from nmt.data import plan
from nmt.training import progress

MakeConfig = Callable[..., schema.TrainingConfig]


def test_progress_comes_back_from_json_exactly() -> None:
    state = progress.Progress(
        update=17,
        position=plan.Position(3, 5),
        seconds=0.1 + 0.2,
        best_score=-1 / 3,
        best_update=12,
        bad_validations=2,
        bad_for_plateau=1,
        num_plateaus=4,
        validated_update=16,
        finished=True,
        window=progress.Window(1 / 7, 2 / 7, 300, 333, 9, 1e-9),
    )
    found = progress.Progress.from_json(json.loads(json.dumps(state.to_json())))
    assert found == state
    assert isinstance(found.position, plan.Position)
    found.window.tokens += 1
    assert state.window.tokens == 300


def test_a_new_run_comes_back_from_json() -> None:
    state = progress.Progress()
    assert progress.Progress.from_json(json.loads(json.dumps(state.to_json()))) == state
    assert (state.best_score, state.best_update, state.validated_update) == (None, -1, -1)


def take(config: schema.TrainingConfig, scores: list[float]) -> progress.Progress:
    """A run that was validated every ten updates, with these scores."""
    state = progress.Progress()
    for number, score in enumerate(scores, start=1):
        state.update = 10 * number
        state.take_score(score, config)
    return state


def test_only_a_higher_score_is_a_new_best(training_config: MakeConfig) -> None:
    state, config = progress.Progress(), training_config()
    found = []
    for update, score in enumerate([-5.0, -4.0, -4.0, -4.5, -3.9]):
        state.update = update
        found.append(state.take_score(score, config))
        assert state.validated_update == update
    assert found == [True, True, False, False, True]
    assert (state.best_score, state.best_update) == (-3.9, 4)


def test_validations_since_the_best_are_counted(training_config: MakeConfig) -> None:
    config = training_config()
    found = [take(config, [1.0, 3.0, 2.0, 3.0, 1.0][:n]).bad_validations for n in range(1, 6)]
    assert found == [0, 0, 1, 2, 3]
    assert take(config, [3.0, 2.0, 1.0, 4.0]).bad_validations == 0


def test_the_rate_falls_each_time_the_plateau_has_lasted(training_config: MakeConfig) -> None:
    config = training_config(schedule="plateau", plateau_patience=2)
    scores = [5.0, 4.0, 4.0, 4.0, 4.0, 6.0, 5.0, 7.0, 6.0, 6.0]
    found = [take(config, scores[:n]).num_plateaus for n in range(1, 11)]
    assert found == [0, 0, 1, 1, 2, 2, 2, 2, 2, 3]
    # Patience goes on counting where the plateau starts again.
    assert take(config, scores[:5]).bad_validations == 4


def test_plateaus_are_counted_for_their_schedule_only(training_config: MakeConfig) -> None:
    config = training_config(schedule="constant", plateau_patience=1)
    assert take(config, [3.0, 2.0, 1.0]).num_plateaus == 0


@pytest.mark.parametrize(
    ("given", "below", "at", "words"),
    [
        ({"max_updates": 30}, {"update": 29}, {"update": 30}, "max_updates (30)"),
        (
            {"max_epochs": 2},
            {"position": plan.Position(1, 99)},
            {"position": plan.Position(2, 0)},
            "max_epochs (2)",
        ),
        ({"max_minutes": 1.5}, {"seconds": 89.9}, {"seconds": 90.0}, "max_minutes (1.5)"),
        (
            {"patience": 3},
            {"bad_validations": 2},
            {"bad_validations": 3},
            "patience (3 validations without a new best)",
        ),
        (
            {
                "schedule": "plateau",
                "learning_rate": 0.8,
                "plateau_factor": 0.5,
                "min_learning_rate": 0.2,
                "max_updates": 99,
            },
            {"num_plateaus": 2},  # 0.2 is not below the least rate
            {"num_plateaus": 3},
            "min_learning_rate (0.2)",
        ),
    ],
)
def test_each_limit_ends_a_run_once_it_is_reached(
    training_config: MakeConfig,
    given: dict[str, Any],
    below: dict[str, Any],
    at: dict[str, Any],
    words: str,
) -> None:
    config = training_config(**({"max_updates": None} | given))
    assert progress.reached_limit(progress.Progress(), config) is None
    assert progress.reached_limit(progress.Progress(**below), config) is None
    assert progress.reached_limit(progress.Progress(**at), config) == words


ALL_LIMITS = {"max_updates": 100, "max_epochs": 10, "max_minutes": 1.0, "patience": 5}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"update": 100}, "max_updates"),
        ({"update": 99, "position": plan.Position(10, 0)}, "max_epochs"),
        ({"update": 99, "seconds": 60.0, "position": plan.Position(9, 7)}, "max_minutes"),
        ({"update": 99, "seconds": 59.0, "bad_validations": 5}, "patience"),
        ({"update": 99, "seconds": 59.0, "bad_validations": 4}, None),
    ],
)
def test_the_limit_that_is_met_first_ends_the_run(
    training_config: MakeConfig, state: dict[str, Any], words: str | None
) -> None:
    found = progress.reached_limit(progress.Progress(**state), training_config(**ALL_LIMITS))
    assert (found is None) == (words is None)
    assert words is None or (found is not None and found.startswith(words))


def test_without_a_least_rate_plateaus_never_end_a_run(training_config: MakeConfig) -> None:
    config = training_config(schedule="plateau", max_updates=99)
    assert progress.reached_limit(progress.Progress(num_plateaus=60), config) is None


def test_the_least_rate_of_another_schedule_ends_nothing(training_config: MakeConfig) -> None:
    config = training_config(schedule="linear", min_learning_rate=1e-4, max_updates=99)
    assert progress.reached_limit(progress.Progress(num_plateaus=60), config) is None


@pytest.mark.parametrize(
    ("state", "share"),
    [
        ({}, 0.0),
        ({"update": 25}, 0.25),
        ({"update": 25, "seconds": 30.0}, 0.5),
        ({"update": 25, "position": plan.Position(6, 10)}, 0.65),
        ({"update": 25, "position": plan.Position(6, 10), "seconds": 42.0}, 0.7),
        ({"update": 150}, 1.0),
        ({"update": 25, "bad_validations": 5}, 0.25),  # nobody knows how long patience lasts
    ],
)
def test_the_share_done_is_that_of_the_nearest_limit(
    training_config: MakeConfig, state: dict[str, Any], share: float
) -> None:
    config = training_config(**ALL_LIMITS)
    found = progress.share_done(progress.Progress(**state), config, epoch_batches=20)
    assert found == pytest.approx(share)


def test_under_patience_alone_the_share_done_is_unknown(training_config: MakeConfig) -> None:
    config = training_config(max_updates=None, patience=3)
    assert progress.share_done(progress.Progress(update=99), config, epoch_batches=0) == 0.0


def test_a_score_that_is_no_number_is_beaten_by_any(training_config: MakeConfig) -> None:
    state = take(training_config(), [float("nan"), -9.0])
    assert (state.best_score, state.best_update, state.bad_validations) == (-9.0, 20, 0)
