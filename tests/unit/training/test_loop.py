"""The loop, with everything around it in memory: when it validates, saves, publishes and ends."""

import copy
import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from nmt import errors
from nmt.config import schema
from nmt.data import batches, plan
from nmt.runtime import device as devices
from nmt.runtime import distributed, seeds
from nmt.training import hooks, layouts, loop, progress, update

MakeConfig = Callable[..., schema.TrainingConfig]
Tensors = dict[str, torch.Tensor]
CPU = torch.device("cpu")
ARITHMETIC = devices.training_arithmetic("fp32", CPU)


class CountingModel(nn.Module):
    """A model whose only weight is the number of its updates."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.decoder = nn.Module()
        self.decoder.embedding_size = 16  # type: ignore[assignment]

    @property
    def count(self) -> float:
        return self.weight.item()


class Clock:
    """Stands for the time module: an update takes 10 s, a validation 100 s, a save 1000 s."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


class CountingUpdater:
    """Counts instead of learning; the loss of the n-th update is n a token."""

    def __init__(self, clock: Clock) -> None:
        self.model = CountingModel()
        self.optimizer = torch.optim.SGD(self.model.parameters())
        self.ema, self.device_tokens = None, None
        self.layout = layouts.Whole()
        self.is_amid_step = False
        self.group = distributed.Alone()
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)
        self.seeds: list[int] = []
        self.bad: set[int] = set()
        self.rates: list[float] = []
        self.modes: list[bool] = []
        self._clock = clock

    def update(
        self, pieces: Any, num_tokens: int, rate: float, *, seed: int
    ) -> update.UpdateResult:
        self.rates.append(rate)
        self.seeds.append(seed)
        self.modes.append(self.model.training)
        self._clock.now += 10.0
        if len(self.rates) in self.bad:
            nan, yes, no = torch.tensor(math.nan), torch.tensor(True), torch.tensor(False)
            return update.UpdateResult(nan, nan, nan, no, yes)
        with torch.no_grad():
            self.model.weight += 1.0
        loss = torch.tensor(self.model.count * num_tokens)
        norm = torch.tensor(100.0 + self.model.count)
        yes, no = torch.tensor(True), torch.tensor(False)
        return update.UpdateResult(loss, loss / 2.0, norm, yes, no)


class EndlessLoader:
    """Epochs of four batches without pieces: 10, 20, 30 and 40 tokens, half of the positions."""

    epoch_batches = 4

    def batches(self, start: plan.Position) -> Iterator[batches.Batch]:
        number = 4 * start.epoch + start.batch
        for _ in range(200):
            tokens = 10 * (number % 4 + 1)
            number += 1
            behind = plan.Position(*divmod(number, 4))
            yield batches.Batch((), tokens, tokens, 2 * tokens, 1, behind)
        pytest.fail("the run never ends")


@dataclasses.dataclass(frozen=True)
class Found:
    scores: dict[str, float]


Saved = tuple[dict[str, Any], dict[str, Tensors]]


class Edges:
    """Files and search, in memory: what was saved, published and written, and in which order."""

    def __init__(self, model: CountingModel, clock: Clock, scores: Mapping[float, float]) -> None:
        self.model, self.clock, self.scores = model, clock, scores
        self.metric = "bleu"
        self.stop_after: float | None = None
        self.mean: float | None = None
        self.states: dict[int, Saved] = {}
        self.snapshots: dict[int, float] = {}
        self.published: list[tuple[int, float, dict[str, float]]] = []
        self.metrics: list[dict[str, Any]] = []
        self.events: list[tuple[str, float]] = []
        self.modes: list[bool] = []

    def validate(self, model: Any) -> Found:
        self.modes.append(model.training)
        self.clock.now += 100.0
        self.events.append(("validate", model.count))
        return Found({"other": 7.0, self.metric: self.scores.get(model.count, 1.0)})

    def save(self, state: progress.Progress, tensors: dict[str, Tensors]) -> None:
        self.clock.now += 1000.0
        self.events.append(("save", state.update))
        # As files do it: what comes back shares nothing with what was saved.
        values = json.loads(json.dumps(state.to_json()))
        self.states[state.update] = (values, copy.deepcopy(tensors))

    def snapshot(self, number: int, weights: Tensors) -> None:
        self.events.append(("snapshot", number))
        self.snapshots[number] = weights["weight"].item()

    def publish(self, number: int, weights: Tensors, scores: dict[str, float]) -> None:
        self.events.append(("publish", number))
        self.published.append((number, weights["weight"].item(), scores))

    def average(self) -> Tensors | None:
        self.events.append(("average", self.model.count))
        return None if self.mean is None else {"weight": torch.tensor(self.mean)}

    def best_weights(self, number: int) -> Tensors:
        return copy.deepcopy(self.states[number][1]["weights"])

    def last_good(self) -> Saved:
        good = [number for number, (v, _) in self.states.items() if not v["skipped_in_row"]]
        return copy.deepcopy(self.states[max(good)])

    def stop_requested(self) -> bool:
        return self.stop_after is not None and self.model.count >= self.stop_after

    def write_metrics(self, line: dict[str, Any]) -> None:
        self.metrics.append(json.loads(json.dumps(line)))

    def of(self, kind: str) -> list[float]:
        return [number for event, number in self.events if event == kind]

    def lines(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.metrics if line["event"] == event]


class Reporter:
    """What would be shown."""

    def __init__(self) -> None:
        self.num_advances = 0
        self.shown: list[tuple[int, dict[str, float], float | None]] = []

    def advance(self) -> None:
        self.num_advances += 1

    def show(self, number: int, numbers: dict[str, float], seconds_left: float | None) -> None:
        self.shown.append((number, numbers, seconds_left))

    def close(self) -> None:
        pass


class Run:
    """A trainer and all that stands around it."""

    def __init__(
        self,
        config: schema.TrainingConfig,
        clock: Clock,
        scores: Mapping[float, float],
        going_on_from: Saved | None = None,
    ) -> None:
        self.updater = CountingUpdater(clock)
        self.edges = Edges(self.updater.model, clock, scores)
        self.edges.metric = config.best_metric
        self.reporter = Reporter()
        made = {field.name: self._hook(field.name) for field in dataclasses.fields(hooks.Hooks)}
        self.trainer = loop.Trainer(
            self.updater,  # type: ignore[arg-type]
            EndlessLoader(),  # type: ignore[arg-type]
            config,
            ARITHMETIC,
            hooks.Hooks(**made),
            self.reporter,  # type: ignore[arg-type]
        )
        if going_on_from is not None:
            self.trainer.restore(*copy.deepcopy(going_on_from))

    def _hook(self, name: str) -> Any:
        """Looks the hook up at each call, so that a test can put another in its place."""
        return lambda *args: getattr(self.edges, name)(*args)

    @property
    def progress(self) -> progress.Progress:
        return self.trainer.progress

    @property
    def count(self) -> float:
        return self.updater.model.count


MakeRun = Callable[..., Run]


# The most memory in use, as far as the loop knows: the real one depends on the tests before.
PEAK_MIB = 321


@pytest.fixture(autouse=True)
def _peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "peak_memory", lambda device: PEAK_MIB * 2**20 + 1000)


def test_a_peak_that_is_not_known_is_null(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "peak_memory", lambda device: None)
    run = make_run(logging_interval=3)
    run.trainer.run()
    assert {line["memory_mib"] for line in run.edges.lines("train")} == {None}


@pytest.fixture
def make_run(training_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> MakeRun:
    """A function from scores by update, and settings, to a run; other scores are 1."""

    def make(
        scores: Mapping[float, float] | None = None,
        *,
        going_on_from: Saved | None = None,
        **given: Any,
    ) -> Run:
        usual = {"max_updates": 7, "validation_interval": 100, "checkpoint_interval": 100}
        clock = Clock()
        monkeypatch.setattr(loop, "time", clock)
        return Run(training_config(**(usual | given)), clock, scores or {}, going_on_from)

    return make


def test_a_run_trains_to_its_limit(make_run: MakeRun) -> None:
    run = make_run(max_updates=7)
    assert run.trainer.run()
    assert run.count == 7
    assert run.progress.update == 7
    assert run.progress.position == plan.Position(1, 3)
    assert run.progress.finished
    assert run.reporter.num_advances == 7


def test_a_run_validates_at_intervals_and_at_its_end(make_run: MakeRun) -> None:
    run = make_run(validation_interval=3)
    run.trainer.run()
    assert run.edges.of("validate") == [3, 6, 7]
    assert [line["update"] for line in run.edges.lines("validation")] == [3, 6, 7]


def test_the_last_update_is_not_validated_twice(make_run: MakeRun) -> None:
    run = make_run(validation_interval=3, max_updates=6)
    run.trainer.run()
    assert run.edges.of("validate") == [3, 6]


def test_a_run_saves_at_its_start_at_intervals_and_at_its_end(make_run: MakeRun) -> None:
    run = make_run(checkpoint_interval=3)
    run.trainer.run()
    assert sorted(run.edges.states) == [0, 3, 6, 7]
    for number, (values, tensors) in run.edges.states.items():
        assert values["update"] == number
        assert tensors["weights"]["weight"].item() == number
    assert run.edges.states[7][0]["finished"]
    assert not run.edges.states[6][0]["finished"]


def test_the_validation_comes_before_the_state_that_remembers_it(make_run: MakeRun) -> None:
    run = make_run(checkpoint_interval=2, validation_interval=2, average_checkpoints=2)
    run.trainer.run()
    at_two = [event for event, number in run.edges.events if number == 2]
    assert at_two[:3] == ["validate", "snapshot", "save"]
    assert run.edges.states[2][0]["validated_update"] == 2


def test_the_model_is_judged_in_evaluation_mode_and_trained_in_training_mode(
    make_run: MakeRun,
) -> None:
    run = make_run(validation_interval=2, average_checkpoints=2)
    run.edges.mean = 1.5
    run.trainer.run()
    assert run.edges.modes == [False] * 5
    assert run.updater.modes == [True] * 7


SCORES = {2: 10.0, 4: 30.0, 6: 20.0, 7: 25.0}


def test_each_new_best_is_saved_and_then_published(make_run: MakeRun) -> None:
    run = make_run(SCORES, validation_interval=2)
    run.trainer.run()
    assert run.edges.published == [
        (2, 2.0, {"bleu": 10.0}),
        (4, 4.0, {"bleu": 30.0}),
        (4, 4.0, {"bleu": 30.0}),  # at the end again, whatever a kill left
    ]
    assert sorted(run.edges.states) == [0, 2, 4, 7]
    events = run.edges.events
    for number in (2, 4):
        assert events.index(("save", number)) < events.index(("publish", number))
    assert [line["is_best"] for line in run.edges.lines("validation")] == [True, True, False, False]


def test_the_last_update_is_published_if_it_is_the_best(make_run: MakeRun) -> None:
    run = make_run({3: 10.0, 7: 11.0}, validation_interval=3)
    run.trainer.run()
    assert run.edges.published[-1] == (7, 7.0, {"bleu": 11.0})
    events = run.edges.events
    assert events.index(("save", 7)) < events.index(("publish", 7))


@pytest.mark.parametrize("metric", ["bleu", "chrf", "loss"])
def test_best_is_by_the_metric_of_the_configuration(make_run: MakeRun, metric: str) -> None:
    run = make_run(SCORES, best_metric=metric, validation_interval=2)
    run.trainer.run()
    best = 2 if metric == "loss" else 4  # the lowest loss, the highest of the others
    assert run.edges.published[-1] == (best, float(best), {metric: SCORES[best]})
    assert run.progress.best_update == best
    line = run.edges.lines("validation")[0]
    assert (line[metric], line["other"]) == (10.0, 7.0)
    assert line["score"] == (-10.0 if metric == "loss" else 10.0)


def test_a_run_without_better_validations_runs_out_of_patience(make_run: MakeRun) -> None:
    scores = {2: 5.0, 4: 9.0, 6: 8.0, 8: 9.0, 10: 7.0, 12: 99.0}
    run = make_run(scores, validation_interval=2, patience=3, max_updates=50)
    assert run.trainer.run()
    assert run.count == 10
    assert run.edges.of("validate") == [2, 4, 6, 8, 10]
    assert run.edges.published[-1][0] == 4
    assert run.progress.finished


def test_patience_heeds_a_falling_loss(make_run: MakeRun) -> None:
    scores = {2: 5.0, 4: 4.0, 6: 3.0, 8: 3.5, 10: 3.4}
    run = make_run(scores, best_metric="loss", validation_interval=2, patience=2, max_updates=50)
    run.trainer.run()
    assert run.count == 10
    assert run.edges.published[-1] == (6, 6.0, {"loss": 3.0})


@pytest.mark.parametrize(
    ("given", "num_updates"),
    [
        ({"max_epochs": 2}, 8),
        ({"max_epochs": 3, "max_updates": 11}, 11),
        ({"max_minutes": 1.0}, 6),  # ten seconds each; saving is not counted
        ({"max_minutes": 2.5, "validation_interval": 3}, 5),  # a validation takes 100 s more
    ],
)
def test_the_first_limit_that_is_reached_ends_the_run(
    make_run: MakeRun, given: dict[str, Any], num_updates: int
) -> None:
    run = make_run(**({"max_updates": None, "checkpoint_interval": 2} | given))
    assert run.trainer.run()
    assert run.count == num_updates


def test_rates_follow_the_schedule_from_the_first_update(make_run: MakeRun) -> None:
    run = make_run(schedule="constant", learning_rate=0.8, warmup_updates=4, max_updates=6)
    run.trainer.run()
    assert run.updater.rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


def test_noam_heeds_the_width_of_the_decoder(make_run: MakeRun) -> None:
    run = make_run(schedule="noam", learning_rate=1.0, warmup_updates=1, max_updates=4)
    run.trainer.run()
    assert run.updater.rates == pytest.approx([0.25 / math.sqrt(u) for u in (1, 2, 3, 4)])


def test_plateaus_lower_the_rate_down_to_the_least(make_run: MakeRun) -> None:
    run = make_run(
        {1: 9.0},
        schedule="plateau",
        learning_rate=0.8,
        warmup_updates=0,
        plateau_patience=2,
        min_learning_rate=0.15,
        validation_interval=1,
        max_updates=50,
    )
    run.trainer.run()
    assert run.updater.rates == pytest.approx([0.8] * 3 + [0.4] * 2 + [0.2] * 2)


def test_metrics_are_means_over_the_tokens_since_the_last_line(make_run: MakeRun) -> None:
    run = make_run(logging_interval=3, validation_interval=2, schedule="constant", warmup_updates=0)
    run.trainer.run()
    first, second = run.edges.lines("train")
    # Batches of 10, 20, 30, 40, 10, 20 tokens with losses of 1, 2, ..., 6 a token.
    assert first["loss"] == pytest.approx((10 + 40 + 90) / 60)
    assert second["loss"] == pytest.approx((160 + 50 + 120) / 70)
    assert first["perplexity"] == pytest.approx(math.exp((10 + 40 + 90) / 60 / 2))
    assert [line["update"] for line in (first, second)] == [3, 6]
    assert [line["epoch"] for line in (first, second)] == [0, 1]
    assert [line["grad_norm"] for line in (first, second)] == [103.0, 106.0]
    assert [line["padding"] for line in (first, second)] == [0.5, 0.5]
    assert [line["learning_rate"] for line in (first, second)] == [0.001, 0.001]
    assert [line["memory_mib"] for line in (first, second)] == [PEAK_MIB, PEAK_MIB]
    # Speed is that of the updates alone, the time that of the run, validations included.
    assert first["tokens_per_second"] == pytest.approx(60 / 30)
    assert second["tokens_per_second"] == pytest.approx(70 / 30)
    assert [line["seconds"] for line in (first, second)] == pytest.approx([130.0, 260.0])
    assert [line["seconds"] for line in run.edges.lines("validation")] == [120, 240, 360, 470]


def test_a_hopeless_loss_does_not_overflow_the_perplexity(make_run: MakeRun) -> None:
    run = make_run(logging_interval=1, max_updates=1)
    with torch.no_grad():
        run.updater.model.weight.fill_(1e6)
    run.trainer.run()
    assert run.edges.lines("train")[0]["perplexity"] == pytest.approx(math.exp(100.0))


def test_what_is_logged_is_shown_with_the_time_left(make_run: MakeRun) -> None:
    run = make_run(logging_interval=2, max_updates=8)
    run.trainer.run()
    assert [shown[0] for shown in run.reporter.shown] == [2, 4, 6, 8]
    assert [shown[2] for shown in run.reporter.shown] == pytest.approx([60.0, 40.0, 20.0, 0.0])
    lines = run.edges.lines("train")
    assert [shown[1]["loss"] for shown in run.reporter.shown] == [line["loss"] for line in lines]


def test_without_a_known_end_the_time_left_is_unknown(make_run: MakeRun) -> None:
    run = make_run(
        {1: 9.0}, logging_interval=1, max_updates=None, patience=1, validation_interval=1
    )
    run.trainer.run()
    assert [shown[2] for shown in run.reporter.shown] == [None, None]


@pytest.mark.parametrize(("mean_score", "wins"), [(30.1, True), (30.0, True), (29.9, False)])
def test_the_average_is_published_only_if_it_is_no_worse_than_the_best(
    make_run: MakeRun, mean_score: float, wins: bool
) -> None:
    run = make_run(SCORES | {5.5: mean_score}, validation_interval=2, average_checkpoints=3)
    run.edges.mean = 5.5
    run.trainer.run()
    wanted = (7, 5.5, {"bleu": mean_score}) if wins else (4, 4.0, {"bleu": 30.0})
    assert run.edges.published[-1] == wanted
    assert (4, 4.0, {"bleu": 30.0}) in run.edges.published
    (line,) = run.edges.lines("average")
    assert (line["update"], line["score"], line["is_taken"]) == (7, mean_score, wins)


def test_a_run_that_goes_on_keeps_its_average_until_something_is_better(make_run: MakeRun) -> None:
    settings = {"validation_interval": 2, "average_checkpoints": 3}
    run = make_run(SCORES | {5.5: 35.0}, **settings)
    run.edges.mean = 5.5
    run.trainer.run()
    assert run.edges.published[-1] == (7, 5.5, {"bleu": 35.0})
    scores = SCORES | {5.5: 35.0, 8: 34.0, 10: 36.0, 11: 31.0, 9.5: 35.5}
    worse = make_run(
        SCORES | {8: 34.0, 7.5: 33.0}, going_on_from=run.edges.states[7], max_updates=9, **settings
    )
    worse.edges.mean = 7.5
    worse.trainer.run()
    assert worse.edges.published == []
    better = make_run(scores, going_on_from=run.edges.states[7], max_updates=11, **settings)
    better.edges.mean = 9.5
    better.trainer.run()
    assert {number for number, *_ in better.edges.published} == {10}


def test_an_average_with_a_lower_loss_wins(make_run: MakeRun) -> None:
    run = make_run(
        SCORES | {5.5: 9.5}, best_metric="loss", validation_interval=2, average_checkpoints=3
    )
    run.edges.mean = 5.5
    run.trainer.run()
    assert run.edges.published[-1] == (7, 5.5, {"loss": 9.5})


def test_after_the_average_the_run_has_its_last_weights_and_choices_again(
    make_run: MakeRun,
) -> None:
    run = make_run(SCORES | {5.5: 99.0}, validation_interval=2, average_checkpoints=3)
    run.edges.mean = 5.5
    run.trainer.run()
    assert run.count == 7
    values, tensors = run.edges.states[7]
    assert tensors["weights"]["weight"].item() == 7
    assert (values["best_update"], values["best_score"], values["finished"]) == (4, 30.0, True)


def test_each_validation_leaves_a_snapshot_to_average(make_run: MakeRun) -> None:
    run = make_run(validation_interval=3, average_checkpoints=2)
    run.trainer.run()
    assert run.edges.snapshots == {3: 3.0, 6: 6.0, 7: 7.0}
    assert run.edges.of("average") == [7]
    assert run.edges.events.index(("snapshot", 7)) < run.edges.events.index(("average", 7))


def test_too_few_snapshots_are_not_averaged(make_run: MakeRun) -> None:
    run = make_run(average_checkpoints=2)
    assert run.trainer.run()
    assert run.edges.lines("average") == []
    assert run.edges.of("publish") == [7]


def test_without_averaging_no_snapshot_is_kept(make_run: MakeRun) -> None:
    run = make_run(validation_interval=3, average_checkpoints=1)
    run.edges.mean = 5.5
    run.trainer.run()
    assert run.edges.snapshots == {}
    assert run.edges.of("average") == []


def test_a_request_to_stop_saves_and_ends_nothing(make_run: MakeRun) -> None:
    run = make_run(logging_interval=2)
    run.edges.stop_after = 3
    assert not run.trainer.run()
    assert run.edges.events == [("save", 0), ("save", 3)]
    values, tensors = run.edges.states[3]
    assert not values["finished"]
    assert tensors["weights"]["weight"].item() == 3
    assert plan.Position(**values["position"]) == plan.Position(0, 3)
    assert values["window"]["loss"] == 90.0, "what was not logged yet is kept for the next line"


RESUMED = {
    "max_updates": 13,
    "validation_interval": 3,
    "checkpoint_interval": 2,
    "logging_interval": 5,
    "average_checkpoints": 2,
    "schedule": "plateau",
    "plateau_patience": 1,
    "warmup_updates": 0,
}
CLIMB = {3: 5.0, 6: 4.0, 9: 8.0, 12: 7.0, 13: 7.5, 12.5: 8.5}


def saved(run: Run, number: int) -> tuple[dict[str, Any], float]:
    values, tensors = run.edges.states[number]
    return values, tensors["weights"]["weight"].item()


@pytest.mark.parametrize("stop_after", range(1, 14))
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(make_run: MakeRun, stop_after: int) -> None:
    whole = make_run(CLIMB, **RESUMED)
    whole.edges.mean = 12.5
    whole.trainer.run()
    first = make_run(CLIMB, **RESUMED)
    first.edges.stop_after = stop_after
    assert not first.trainer.run()
    assert first.count == stop_after
    second = make_run(CLIMB, going_on_from=first.edges.states[stop_after], **RESUMED)
    second.edges.mean = 12.5
    second.edges.states |= first.edges.states
    assert second.trainer.run()
    assert first.updater.rates + second.updater.rates == whole.updater.rates
    assert first.edges.published + second.edges.published == whole.edges.published
    assert first.edges.metrics + second.edges.metrics == whole.edges.metrics
    assert first.edges.snapshots | second.edges.snapshots == whole.edges.snapshots
    assert second.progress == whole.progress
    assert saved(second, 13) == saved(whole, 13)


def test_a_run_that_goes_on_does_not_save_again_what_it_began_with(make_run: MakeRun) -> None:
    first = make_run(**RESUMED)
    first.edges.stop_after = 2
    first.trainer.run()
    second = make_run(going_on_from=first.edges.states[2], **RESUMED)
    second.trainer.run()
    assert min(second.edges.states) == 3  # the first validation


class Killed(BaseException):
    """Stands for kill -9: nobody may catch it and go on."""


def killed_at(run: Run, hook: str, allowed: int) -> bool:
    """Runs until the hook is called once more than allowed; returns whether it was."""
    original, calls = getattr(run.edges, hook), itertools.count()

    def counted(*args: Any) -> Any:
        if next(calls) == allowed:
            raise Killed
        return original(*args)

    setattr(run.edges, hook, counted)
    try:
        run.trainer.run()
    except Killed:
        return True
    return False


@pytest.mark.parametrize("hook", ["validate", "save", "snapshot", "publish", "average"])
def test_a_run_killed_before_any_call_comes_to_the_same_end(make_run: MakeRun, hook: str) -> None:
    whole = make_run(CLIMB, **RESUMED)
    whole.edges.mean = 12.5
    whole.trainer.run()
    for allowed in range(40):
        first = make_run(CLIMB, **RESUMED)
        first.edges.mean = 12.5
        if not killed_at(first, hook, allowed):
            assert allowed > 0, "the calls were not counted"
            return
        newest = max(first.edges.states, default=None)
        before = None if newest is None else first.edges.states[newest]
        second = make_run(CLIMB, going_on_from=before, **RESUMED)
        second.edges.mean = 12.5
        second.edges.states |= first.edges.states
        assert second.trainer.run()
        assert second.edges.published[-1] == whole.edges.published[-1]
        assert second.progress == whole.progress
        assert saved(second, 13) == saved(whole, 13)
    pytest.fail("the run never came to its end")


def test_a_finished_run_that_is_extended_is_under_way_again(make_run: MakeRun) -> None:
    """Killed before its last validation, it must not pass for finished."""
    first = make_run(max_updates=4)
    first.trainer.run()
    assert first.edges.states[4][0]["finished"]
    second = make_run(going_on_from=first.edges.states[4], max_updates=8)
    second.edges.states |= first.edges.states
    saved, keep = [], second.edges.save

    def save(state: progress.Progress, tensors: dict[str, Tensors]) -> None:
        saved.append((state.update, state.finished))
        keep(state, tensors)

    second.edges.save = save  # type: ignore[method-assign]
    second.trainer.run()
    assert saved == [(8, False), (8, True)]


def test_skipped_updates_are_counted_and_kept_out_of_the_means(make_run: MakeRun) -> None:
    run = make_run(logging_interval=4, max_updates=8)
    run.updater.bad = {2, 3}
    assert run.trainer.run()
    assert (run.count, run.progress.update, run.progress.skipped) == (6, 8, 2)
    assert run.progress.skipped_in_row == 0
    first, second = run.edges.lines("train")
    assert (first["skipped"], second["skipped"]) == (2, 0)
    # Batches of 10 and 40 tokens with losses of 1 and 2 a token.
    assert first["loss"] == pytest.approx((10 * 1 + 40 * 2) / 50)


def test_a_window_of_skipped_updates_is_still_json(make_run: MakeRun) -> None:
    run = make_run(logging_interval=2, max_updates=4)
    run.updater.bad = {1, 2}
    run.trainer.run()
    line = run.edges.lines("train")[0]
    assert (line["loss"], line["perplexity"], line["grad_norm"]) == (None, None, None)
    assert line["skipped"] == 2


SHAKY = {
    "max_updates": 9,
    "checkpoint_interval": 2,
    "max_skipped_updates": 3,
    "schedule": "constant",
    "learning_rate": 0.8,
    "warmup_updates": 0,
}


def test_after_several_in_a_row_the_run_goes_back_at_half_the_rate(make_run: MakeRun) -> None:
    run = make_run(**SHAKY)
    run.updater.bad = {6, 7, 8}  # of which the first would be saved
    assert run.trainer.run()
    # Five updates, three that were skipped, and from the state of update 4 five more.
    assert run.updater.rates == [0.8] * 8 + [0.4] * 5
    assert run.count == 9
    assert run.progress.update == 9
    (line,) = run.edges.lines("rollback")
    assert (line["update"], line["to_update"], line["rate_factor"]) == (8, 4, 0.5)
    assert (run.progress.num_rollbacks, run.progress.skipped) == (1, 3)
    assert run.progress.position == plan.Position(2, 1), "the same batches come again"
    assert run.edges.of("save")[:4] == [0, 2, 4, 4], "what is amid them pushes out no good state"
    again = run.updater.seeds[8:]
    assert not set(again) & set(run.updater.seeds[:8]), "with other masks"


def test_fewer_in_a_row_are_no_reason_to_go_back(make_run: MakeRun) -> None:
    run = make_run(**SHAKY)
    run.updater.bad = {3, 4, 6, 7}
    run.trainer.run()
    assert run.edges.lines("rollback") == []
    assert run.updater.rates == [0.8] * 9


def run_out_of_memory(run: Run, *, after: int) -> None:
    """Makes the update behind this one find out that the device has room for 80 positions."""
    original = run.updater.update

    def update_once(*args: Any, **kwargs: Any) -> update.UpdateResult:
        if run.progress.update == after:
            run.updater.device_tokens = 80  # type: ignore[assignment]
        return original(*args, **kwargs)

    run.updater.update = update_once  # type: ignore[method-assign]


def test_going_back_does_not_forget_what_the_device_has_room_for(make_run: MakeRun) -> None:
    run = make_run(**SHAKY)
    run.updater.bad = {6, 7, 8}
    run_out_of_memory(run, after=5)
    run.trainer.run()
    assert len(run.edges.lines("rollback")) == 1
    assert len(run.edges.lines("memory")) == 1
    assert run.edges.states[4][0]["device_tokens"] == 80


def test_the_lower_rate_is_saved_at_once(make_run: MakeRun) -> None:
    first = make_run(**SHAKY)
    first.updater.bad = {6, 7, 8}
    calls = itertools.count()
    update_once = first.updater.update

    def killed(*args: Any, **kwargs: Any) -> update.UpdateResult:
        if next(calls) == 8:
            raise Killed
        return update_once(*args, **kwargs)

    first.updater.update = killed  # type: ignore[method-assign]
    with pytest.raises(Killed):
        first.trainer.run()
    second = make_run(going_on_from=first.edges.states[4], **SHAKY)
    second.trainer.run()
    assert second.updater.rates == [0.4] * 5


def test_a_run_that_goes_back_in_vain_ends_with_what_it_has(make_run: MakeRun) -> None:
    run = make_run(validation_interval=4, **SHAKY)
    run.updater.bad = set(range(6, 100))
    with pytest.raises(errors.TrainingError, match=r"update 7: .* 3 times .*0\.125"):
        run.trainer.run()
    assert run.updater.rates[5::3] == [0.8, 0.4, 0.2, 0.1]
    assert run.edges.published == [(4, 4.0, {"bleu": 1.0})]
    values, tensors = run.edges.states[4]
    assert (values["num_rollbacks"], tensors["weights"]["weight"].item()) == (3, 4.0)


def test_a_limit_that_was_found_is_kept_and_logged(make_run: MakeRun) -> None:
    run = make_run(checkpoint_interval=2, max_updates=4)
    run.updater.device_tokens = 640  # type: ignore[assignment]
    run_out_of_memory(run, after=2)
    run.trainer.run()
    lines = [(line["update"], line["device_tokens"]) for line in run.edges.lines("memory")]
    assert lines == [(0, 640), (3, 80)]
    kept = {n: values["device_tokens"] for n, (values, _) in run.edges.states.items()}
    assert kept == {0: 640, 2: 640, 4: 80}
    second = make_run(going_on_from=run.edges.states[4], max_updates=5)
    assert second.updater.device_tokens == 80


def test_each_update_has_a_seed_of_its_own(make_run: MakeRun) -> None:
    run = make_run(max_updates=7)
    run.trainer.run()
    assert len(set(run.updater.seeds)) == 7
    assert run.updater.seeds == [seeds.of_update(1, number) for number in range(1, 8)]


def test_an_update_that_does_not_fit_keeps_what_was_trained(make_run: MakeRun) -> None:
    run = make_run(max_updates=9, checkpoint_interval=100)
    update_ = run.updater.update

    def too_long(*args: Any, **kwargs: Any) -> update.UpdateResult:
        if len(run.updater.rates) == 5:
            raise errors.TrainingError("out of memory: a single pair does not fit")
        return update_(*args, **kwargs)

    run.updater.update = too_long  # type: ignore[method-assign]
    with pytest.raises(errors.TrainingError, match="a single pair"):
        run.trainer.run()
    assert run.edges.of("save") == [0, 5]


def test_a_rank_lost_amid_a_step_leaves_nothing_to_save(make_run: MakeRun) -> None:
    """The weights are then neither those of before nor those of after."""
    run = make_run(max_updates=9, checkpoint_interval=2)
    update_ = run.updater.update

    def lost(*args: Any, **kwargs: Any) -> update.UpdateResult:
        if len(run.updater.rates) == 5:
            run.updater.is_amid_step = True
            raise errors.TrainingError("has lost another process")
        return update_(*args, **kwargs)

    run.updater.update = lost  # type: ignore[method-assign]
    with pytest.raises(errors.TrainingError, match="lost"):
        run.trainer.run()
    assert run.edges.of("save") == [0, 2, 4]


@pytest.mark.parametrize("at", [3, 6, 13])
def test_a_validation_that_fails_loses_nothing_and_is_made_up_for(
    make_run: MakeRun, at: int
) -> None:
    whole = make_run(CLIMB, **RESUMED)
    whole.edges.mean = 12.5
    whole.trainer.run()
    first = make_run(CLIMB, **RESUMED)
    first.edges.mean = 12.5
    validate = first.edges.validate

    def failing(model: Any) -> Found:
        if model.count == at:
            raise errors.TrainingError("data.valid: a pair does not fit")
        return validate(model)

    first.edges.validate = failing  # type: ignore[method-assign]
    with pytest.raises(errors.TrainingError, match="does not fit"):
        first.trainer.run()
    assert max(first.edges.states) == at
    second = make_run(CLIMB, going_on_from=first.edges.states[at], **RESUMED)
    second.edges.mean = 12.5
    second.edges.states |= first.edges.states
    assert second.trainer.run()
    assert first.updater.rates + second.updater.rates == whole.updater.rates
    assert second.edges.published[-1] == whole.edges.published[-1]
    kept = [line for line in whole.edges.lines("validation") if line["update"] >= at]
    for line, wanted in zip(second.edges.lines("validation"), kept, strict=True):
        assert line | {"seconds": 0} == wanted | {"seconds": 0}
    assert saved(second, 13)[1] == saved(whole, 13)[1]


def test_scores_that_are_no_numbers_are_null(make_run: MakeRun) -> None:
    scores = {2.0: math.nan, 3.5: -math.inf}
    run = make_run(scores, max_updates=4, validation_interval=2, average_checkpoints=2)
    run.edges.mean = 3.5
    run.trainer.run()
    first, second = run.edges.lines("validation")
    assert (first["bleu"], first["score"], second["bleu"]) == (None, None, 1.0)
    assert [line["bleu"] for line in run.edges.lines("average")] == [None]
