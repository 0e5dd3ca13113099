"""Learning rates at the points that tell the schedules apart."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt import errors
from nmt.config import schema
from nmt.training import schedules

MakeConfig = Callable[..., schema.TrainingConfig]
PEAK, FLOOR, WARMUP, END = 0.4, 0.1, 100, 500
WARMED_UP = ["inverse_sqrt", "cosine", "linear", "plateau", "constant"]


def rate(config: schema.TrainingConfig, update: int, *, num_plateaus: int = 0) -> float:
    return schedules.learning_rate(config, update, width=512, num_plateaus=num_plateaus)


def config_of(make: MakeConfig, schedule: str, **given: object) -> schema.TrainingConfig:
    numbers = {
        "learning_rate": PEAK,
        "warmup_updates": WARMUP,
        "min_learning_rate": FLOOR,
        "max_updates": END,
        "plateau_factor": 0.5,
    }
    return make(schedule=schedule, **(numbers | given))


@pytest.mark.parametrize("schedule", WARMED_UP)
def test_the_rate_rises_linearly_to_its_peak(training_config: MakeConfig, schedule: str) -> None:
    config = config_of(training_config, schedule)
    found = [rate(config, update) for update in (1, 25, 50, 99, 100)]
    assert found == pytest.approx([0.004, 0.1, 0.2, 0.396, 0.4])


@pytest.mark.parametrize("schedule", WARMED_UP)
@pytest.mark.parametrize("warmup_updates", [0, 1])
def test_without_warm_up_the_first_update_has_the_peak_rate(
    training_config: MakeConfig, schedule: str, warmup_updates: int
) -> None:
    config = config_of(training_config, schedule, warmup_updates=warmup_updates)
    assert rate(config, 1) == pytest.approx(PEAK, rel=2e-3)  # linear has begun to fall


@pytest.mark.parametrize(
    ("schedule", "update", "wanted"),
    [
        ("inverse_sqrt", 400, 0.2),  # four times the warm-up: half the rate
        ("inverse_sqrt", 10_000, 0.04),
        ("inverse_sqrt", 200, 0.4 / math.sqrt(2.0)),
        ("cosine", 200, 0.1 + 0.3 * (1 + math.sqrt(0.5)) / 2),  # a quarter of the way
        ("cosine", 300, 0.25),
        ("cosine", 500, 0.1),
        ("cosine", 600, 0.1),
        ("linear", 200, 0.325),
        ("linear", 300, 0.25),
        ("linear", 500, 0.1),
        ("linear", 600, 0.1),
        ("plateau", 5000, 0.4),
        ("constant", 101, 0.4),
        ("constant", 5000, 0.4),
    ],
)
def test_after_the_warm_up_the_rate_follows_the_formula(
    training_config: MakeConfig, schedule: str, update: int, wanted: float
) -> None:
    assert rate(config_of(training_config, schedule), update) == pytest.approx(wanted)


def test_inverse_sqrt_without_warm_up_falls_from_the_first_update(
    training_config: MakeConfig,
) -> None:
    config = config_of(training_config, "inverse_sqrt", warmup_updates=0)
    assert [rate(config, update) for update in (1, 4, 16)] == pytest.approx([0.4, 0.2, 0.1])


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_warm_up_up_to_the_end_leaves_no_way_to_fall(
    training_config: MakeConfig, schedule: str
) -> None:
    config = config_of(training_config, schedule, warmup_updates=END)
    assert rate(config, END) == pytest.approx(PEAK)


def test_each_plateau_multiplies_the_rate(training_config: MakeConfig) -> None:
    config = config_of(training_config, "plateau")
    found = [rate(config, 1000, num_plateaus=number) for number in range(4)]
    assert found == pytest.approx([0.4, 0.2, 0.1, 0.05])


@pytest.mark.parametrize("schedule", ["inverse_sqrt", "cosine", "linear", "constant", "noam"])
def test_other_schedules_do_not_heed_plateaus(training_config: MakeConfig, schedule: str) -> None:
    config = config_of(training_config, schedule)
    assert rate(config, 250, num_plateaus=3) == rate(config, 250)


@pytest.mark.parametrize(
    ("update", "wanted"),
    [
        (1, 1.7469282e-7),  # 512 ** -0.5 * 4000 ** -1.5
        (2000, 3.4938562e-4),
        (4000, 6.9877124e-4),  # 512 ** -0.5 * 4000 ** -0.5, the peak
        (16_000, 3.4938562e-4),
        (100_000, 1.3975425e-4),
    ],
)
def test_noam_by_hand(training_config: MakeConfig, update: int, wanted: float) -> None:
    config = training_config(schedule="noam", learning_rate=1.0, warmup_updates=4000)
    assert rate(config, update) == pytest.approx(wanted, rel=1e-6)
    doubled = training_config(schedule="noam", learning_rate=2.0, warmup_updates=4000)
    assert rate(doubled, update) == pytest.approx(2.0 * wanted, rel=1e-6)


def test_noam_falls_with_the_width(training_config: MakeConfig) -> None:
    config = training_config(schedule="noam", learning_rate=1.0, warmup_updates=0)
    found = [schedules.learning_rate(config, 4, width=width) for width in (1, 4, 16)]
    assert found == pytest.approx([0.5, 0.25, 0.125])


@settings(deadline=None, max_examples=60)
@given(
    schedule=st.sampled_from([*WARMED_UP, "noam"]),
    warmup=st.integers(0, 600),
    update=st.integers(1, 1000),
)
def test_rates_rise_to_the_end_of_the_warm_up_and_never_after(
    training_config: MakeConfig, schedule: str, warmup: int, update: int
) -> None:
    config = config_of(training_config, schedule, warmup_updates=warmup)
    here, following = rate(config, update), rate(config, update + 1)
    assert 0.0 < here <= PEAK
    assert here < following if update < warmup else here >= following


def test_an_unknown_schedule_is_an_error() -> None:
    config = schema.TrainingConfig.model_construct(schedule="step")  # type: ignore[arg-type]
    with pytest.raises(errors.ConfigError, match=r"training\.schedule: unknown \(given: step\)"):
        rate(config, 5000)


@pytest.mark.parametrize("schedule", ["inverse_sqrt", "plateau", "constant", "noam"])
def test_a_cooldown_falls_from_the_schedule_to_the_floor(
    training_config: MakeConfig, schedule: str
) -> None:
    plain = config_of(training_config, schedule, min_learning_rate=0.001)
    cooled = plain.model_copy(update={"cooldown_updates": 200})
    for update, share in ((1, 1.0), (150, 1.0), (300, 1.0), (350, 0.75), (450, 0.25), (500, 0.0)):
        wanted = 0.001 + (rate(plain, update) - 0.001) * share
        if rate(plain, update) > 0.001:
            assert rate(cooled, update) == pytest.approx(wanted)
    assert rate(cooled, 600) == pytest.approx(min(0.001, rate(plain, 600)))


def test_a_cooldown_needs_an_end_and_fits_before_it(training_config: MakeConfig) -> None:
    with pytest.raises(ValueError, match="cooldown_updates: end at max_updates"):
        training_config(cooldown_updates=5, max_updates=None, max_epochs=1)
    with pytest.raises(ValueError, match=r"cooldown_updates: are more .*given: 501 of 500"):
        training_config(cooldown_updates=501, max_updates=500)
    assert "cooldown_updates" in config_of(training_config, "cosine").inapplicable()
    assert "cooldown_updates" not in config_of(training_config, "constant").inapplicable()
