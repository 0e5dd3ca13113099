"""Exactness of training, for every pair of families: batches, resumption, weights, precision."""

import io
import itertools
import os

import pytest
import torch

from nmt.checkpoint import resume, weights
from nmt.config import schema
from nmt.data import batches, corpus, plan
from nmt.models import seq2seq
from nmt.runtime import device as devices
from nmt.runtime import seeds
from nmt.text import vocab
from nmt.training import hooks, loop, optimizers, reporting, selection, update

CPU = torch.device("cpu")
SRC = vocab.Vocab(("",) * 13, unk_id=0, bos_id=1, eos_id=2, pad_id=3)
TGT = vocab.Vocab(("",) * 11, unk_id=0, bos_id=1, eos_id=2, pad_id=3)
TRANSFORMERS = (
    {
        "type": "transformer",
        "num_layers": 1,
        "hidden_size": 12,
        "num_heads": 2,
        "feedforward_size": 16,
    },
) * 2
CONFIG = {
    "learning_rate": 0.01,
    "warmup_updates": 3,
    "validation_interval": 1000,
    "checkpoint_interval": 1000,
    "logging_interval": 1000,
}


@pytest.fixture(autouse=True)
def run_as_training_runs(monkeypatch):
    """The algorithms that `nmt train` asks for, and no waiting for the disk."""
    before = torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    devices.set_up(CPU, None)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    yield
    torch.use_deterministic_algorithms(before)
    torch.utils.deterministic.fill_uninitialized_memory = filled


def _with_dropout(pair, rate):
    """The options of a pair with dropout everywhere, also of attention weights."""
    return tuple(
        options
        | {"dropout": rate}
        | ({"attention_dropout": rate} if options["type"] == "transformer" else {})
        for options in pair
    )


def _corpus(num_pairs=40):
    """Targets that repeat the source, as far as its ids go, so that there is something to learn."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(1, 8, (num_pairs,), generator=generator)
    begins = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    ids = torch.randint(4, 11, (int(begins[-1]),), generator=generator, dtype=torch.int32)
    longer = begins + torch.arange(num_pairs + 1)  # sources have one token more
    src_ids = torch.full((int(longer[-1]),), 12, dtype=torch.int32)
    for row in range(num_pairs):
        src_ids[longer[row] : longer[row] + lengths[row]] = ids[begins[row] : begins[row + 1]]
    return corpus.Corpus(
        corpus.Side(src_ids, longer), corpus.Side(ids, begins), (num_pairs,), "fingerprint"
    )


def _loader(*, batch_tokens=40, max_device_tokens=None):
    data = _corpus()
    planner = plan.Planner(data, batch_tokens=batch_tokens, seed=5)
    return batches.Loader(planner, batches.Collator(data, SRC, TGT, max_device_tokens), CPU)


def _updater(model, config, arithmetic):
    return update.Updater(
        model,
        optimizers.build(config, model),
        arithmetic,
        smoothing=config.label_smoothing,
        clip_norm=config.clip_norm,
        ema_decay=config.ema_decay,
    )


def _assert_same_tensors(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def test_gradient_accumulation_equals_the_large_batch(variant, build_model):
    # A larger epsilon, lest Adam blow up the rounding of gradients that are zero.
    config = schema.TrainingConfig(**CONFIG, eps=1e-4)
    models, num_pieces = [], []
    for limit in (None, 14):
        model = build_model(_with_dropout(variant, 0.0)).train()
        updater = _updater(model, config, devices.training_arithmetic("fp64", CPU))
        stream = _loader(max_device_tokens=limit).batches(plan.Position())
        taken = list(itertools.islice(stream, 2))
        for batch in taken:
            updater.update(batch.pieces, batch.num_tokens, 0.01)
        models.append(model)
        num_pieces.append(min(len(batch.pieces) for batch in taken))
    assert num_pieces[0] == 1 < num_pieces[1]
    whole, cut = (dict(model.named_parameters()) for model in models)
    fresh = dict(build_model(_with_dropout(variant, 0.0)).named_parameters())
    for name, parameter in whole.items():
        torch.testing.assert_close(cut[name], parameter, rtol=0.0, atol=1e-12)
        assert not torch.equal(parameter, fresh[name]), f"{name} was trained"


class _Scores:
    scores = {"bleu": 1.0}  # noqa: RUF012 - never changed


class _Run:
    """A run in memory; states go through real files, where there is a folder for them."""

    def __init__(
        self, model, precision, run_dir, *, stop_after=None, seed=1, max_updates=5, **given
    ):
        arithmetic = devices.training_arithmetic(precision, CPU)
        config = schema.TrainingConfig(**(CONFIG | {"max_updates": max_updates} | given))
        self._run_dir, self._stop_after = run_dir, stop_after
        selection.freeze(config, model)
        self.updater = _updater(model, config, arithmetic)
        self.published = {}
        self.trainer = loop.Trainer(
            self.updater,
            _loader(batch_tokens=60, max_device_tokens=40),
            config,
            arithmetic,
            self._hooks(),
            reporting.Reporter(io.StringIO(), None, 0, quiet=True),
            seed=seed,
        )

    def _hooks(self):
        return hooks.Hooks(
            validate=lambda model: _Scores(),
            save=self._save,
            snapshot=lambda number, tensors: None,
            publish=lambda number, weights, scores: self.published.update(weights),
            average=lambda: None,
            best_weights=lambda number: {k: t.clone() for k, t in self.trainer.weights().items()},
            last_good=self._last_good,
            write_metrics=lambda line: None,
            stop_requested=lambda: self.trainer.progress.update == self._stop_after,
        )

    def _save(self, progress, tensors):
        values = {"progress": progress.to_json()}
        state = resume.ResumeState(progress.update, values, tensors)
        resume.save(self._run_dir, state, keep=2)

    def _last_good(self):
        found = resume.latest(
            self._run_dir, accept=lambda values: not values["progress"]["skipped_in_row"]
        )
        return found.values["progress"], found.tensors

    def resume(self):
        stored = resume.latest(self._run_dir)
        self.trainer.restore(stored.values["progress"], stored.tensors)

    def counters(self):
        values = self.trainer.progress.to_json()
        return values | {"seconds": 0.0, "window": values["window"] | {"seconds": 0.0}}


def _assert_same_end(found, wanted):
    assert found.counters() == wanted.counters()
    _assert_same_tensors(found.published, wanted.published)
    found_tensors, wanted_tensors = found.trainer.tensors(), wanted.trainer.tensors()
    assert found_tensors.keys() == wanted_tensors.keys()
    for kind, tensors in wanted_tensors.items():
        assert tensors
        _assert_same_tensors(found_tensors[kind], tensors)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_n_and_m_updates_equal_n_then_a_resumption_then_m(
    variant, build_model, tmp_path, precision
):
    pair = _with_dropout(variant, 0.3)
    whole = _Run(build_model(pair).float().train(), precision, tmp_path / "whole")
    assert whole.trainer.run()

    first = _Run(build_model(pair).float().train(), precision, tmp_path / "cut", stop_after=3)
    assert not first.trainer.run()
    assert first.trainer.progress.position.batch == 3

    # Nothing but the files goes over: another model, and random numbers from elsewhere.
    second = _Run(build_model(pair, seed=7).float().train(), precision, tmp_path / "cut")
    torch.rand(100)
    second.resume()
    assert second.trainer.run()

    assert second.trainer.progress.position.epoch >= 1, "it goes on into the next epoch"
    assert whole.trainer.tensors().keys() == {"weights", "optimizer"}
    _assert_same_end(second, whole)


@pytest.fixture
def poison(monkeypatch):
    """A function that makes the loss of these updates NaN, until a run has gone back once."""

    def install(*numbers):
        original = update.summed_loss
        bad = {seeds.of_update(1, number) for number in numbers}

        def poisoned(model, piece, *weights):
            total, nll = original(model, piece, *weights)
            return (total * float("nan"), nll) if torch.initial_seed() in bad else (total, nll)

        monkeypatch.setattr(update, "summed_loss", poisoned)

    return install


@pytest.fixture
def exhaust(monkeypatch):
    """A function that lets memory run out for pieces of more than so many positions."""

    def install(limit):
        original = update.summed_loss

        def limited(model, piece, *weights):
            found = original(model, piece, *weights)
            if batches.num_positions(piece) > limit:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return found

        monkeypatch.setattr(update, "summed_loss", limited)

    return install


SETTINGS = {
    "bf16": {"precision": "bf16"},
    "ema": {"ema_decay": 0.9},
    "adamw": {"optimizer": "adamw"},
    "muon": {"optimizer": "muon"},
    "freeze": {"freeze": ("encoder.*",), "rate_factors": {"decoder.*": 0.5}},
    "all": {"ema_decay": 0.9, "optimizer": "muon", "freeze": ("src_embedding*",)},
}


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        *((name, "none") for name in sorted(SETTINGS)),
        *(("all", fault) for fault in ("skips", "rollbacks", "memory")),
    ],
)
def test_a_stopped_run_ends_the_same_under_every_setting(
    build_model, tmp_path, name, fault, poison, exhaust
):
    """The stops are amid skipped updates, and before and after a return to a checkpoint."""
    pair = _with_dropout(TRANSFORMERS, 0.3)
    given = {"precision": "fp32", "max_updates": 9, "checkpoint_interval": 2} | SETTINGS[name]
    precision = given.pop("precision")
    if fault == "skips":
        poison(2, 3, 6)
    elif fault == "rollbacks":
        poison(5, 6)
        given["max_skipped_updates"] = 2
    elif fault == "memory":
        exhaust(25)

    def make(run_dir, **more):
        model = build_model(pair, seed=more.pop("model_seed", 0)).float().train()
        return _Run(model, precision, run_dir, **given, **more)

    whole = make(tmp_path / "whole")
    assert whole.trainer.run()
    progress = whole.trainer.progress
    assert progress.skipped == {"skips": 3, "rollbacks": 2}.get(fault, 0)
    assert progress.num_rollbacks == (fault == "rollbacks")
    assert progress.rate_factor == (0.5 if fault == "rollbacks" else 1.0)
    assert (progress.device_tokens is not None) == (fault == "memory")
    for stop_after in (2, 5, 7):
        run_dir = tmp_path / str(stop_after)
        first = make(run_dir, stop_after=stop_after)
        assert not first.trainer.run()
        second = make(run_dir, model_seed=7)
        second.resume()
        assert second.trainer.run()
        _assert_same_end(second, whole)


def test_a_batch_that_is_cut_for_memory_has_the_gradient_of_the_whole(build_model, exhaust):
    pair = _with_dropout(TRANSFORMERS, 0.0)
    config = schema.TrainingConfig(**CONFIG, eps=1e-4)
    batch = next(_loader(batch_tokens=80).batches(plan.Position()))
    models, updaters = [], []
    for limit in (None, 20):
        if limit is not None:
            exhaust(limit)
        models.append(build_model(pair).train())
        updaters.append(_updater(models[-1], config, devices.training_arithmetic("fp64", CPU)))
        updaters[-1].update(batch.pieces, batch.num_tokens, 0.01, seed=1)
    assert updaters[0].device_tokens is None
    assert 10 <= updaters[1].device_tokens <= 20
    cut = dict(models[1].named_parameters())
    for name, parameter in models[0].named_parameters():
        torch.testing.assert_close(cut[name], parameter, rtol=0.0, atol=1e-12)


def test_dropout_draws_other_numbers_in_each_run(family, build_model, tmp_path):
    """So the masks that the tests above depend on are drawn from the seed."""
    pair = _with_dropout(family, 0.3)
    found = []
    for seed in (1, 2, 1):
        run = _Run(build_model(pair).float().train(), "fp32", tmp_path, seed=seed)
        run.trainer.run()
        found.append(run.trainer.weights())
    assert all(not torch.equal(found[0][name], found[1][name]) for name in found[0])
    _assert_same_tensors(found[2], found[0])


def _assert_saving_is_identity(model, other, path, make_sources):
    before = {name: tensor.clone() for name, tensor in weights.module_tensors(model).items()}
    weights.save_tensors(path, weights.module_tensors(model))
    loaded = weights.load_tensors(path)
    _assert_same_tensors(loaded, before)
    weights.load_into(other, loaded, str(path))
    _assert_same_tensors(other.state_dict(), model.state_dict())
    sources, tgt = make_sources([7, 1, 4]), torch.tensor([[1, 5, 6], [1, 7, 4], [1, 9, 9]])
    with torch.no_grad():
        found, wanted = (
            one.logits(one(sources.ids, sources.mask, tgt)[0]) for one in (other, model)
        )
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saving_and_loading_weights_is_identity(
    variant, build_model, make_sources, tmp_path, dtype
):
    model, other = (build_model(variant, seed=seed).to(dtype) for seed in (0, 1))
    _assert_saving_is_identity(model, other, tmp_path / "m", make_sources)


@pytest.mark.parametrize(("tie", "num_saved"), [("all", 1), ("decoder", 2), ("none", 3)])
def test_tied_weights_are_saved_once_and_stay_tied(family, make_sources, tmp_path, tie, num_saved):
    config = schema.ModelConfig.model_validate(
        {"encoder": family[0], "decoder": family[1], "tie_embeddings": tie}
    )
    model, other = (seq2seq.build(config, 13, 13, shared=True).eval() for _ in range(2))
    tables = ("src_embedding.weight", "tgt_embedding.weight", "output.weight")
    assert len(weights.module_tensors(model).keys() & set(tables)) == num_saved
    _assert_saving_is_identity(model, other, tmp_path / "m", make_sources)
    pointers = {other.get_parameter(name).data_ptr() for name in tables}
    assert len(pointers) == num_saved


def _loss_curve(model, precision, num_updates):
    """The loss of each update, a token."""
    config = schema.TrainingConfig(**CONFIG)
    updater = _updater(model, config, devices.training_arithmetic(precision, CPU))
    curve = []
    for batch in itertools.islice(_loader().batches(plan.Position()), num_updates):
        result = updater.update(batch.pieces, batch.num_tokens, 0.01)
        curve.append(float(result.loss) / batch.num_tokens)
    return torch.tensor(curve)


def test_bf16_trains_like_fp32(family):
    """Over 20 updates each loss is within 2 % of that in fp32, and their mean within 0.5 %."""
    encoder, decoder = _with_dropout(family, 0.0)
    config = schema.ModelConfig(encoder=encoder, decoder=decoder)
    curves = {}
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        model = seq2seq.build(config, len(SRC), len(TGT), shared=False).train()
        curves[precision] = _loss_curve(model, precision, 20)
    full, half = curves["fp32"], curves["bf16"]
    torch.testing.assert_close(half, full, rtol=0.02, atol=0.0)
    torch.testing.assert_close(half.mean(), full.mean(), rtol=0.005, atol=0.0)
    assert not torch.equal(half, full), "bf16 was not used"
    assert full[-5:].mean() < 0.95 * full[:5].mean(), "nothing was learnt"
