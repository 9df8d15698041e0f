"""Training of recognizers on a toy corpus whose tokens spell its texts."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.toy_speech_text import toy_parts, toy_store
from voxtok.asr.augment import AugmentConfig
from voxtok.asr.decoder import DecoderConfig
from voxtok.asr.encoders import EncoderConfig
from voxtok.asr.examples import read_examples
from voxtok.asr.inputs import InputConfig
from voxtok.asr.recognizer import Recognizer, RecognizerConfig
from voxtok.asr.schedule import ScheduleConfig
from voxtok.asr.text import TextModel
from voxtok.asr.train_asr import TrainAsrConfig, content_of, train_asr, usable
from voxtok.asr.transducer import TransducerConfig
from voxtok.manifests.store import TokenStore
from voxtok.runtime.errors import ConfigError, TokenizerMismatch, VoxtokError
from voxtok.runtime.files import read_jsonl

pytestmark = pytest.mark.skipif(find_spec("speechbrain") is None, reason="encoders come from voxtok[speechbrain]")

NO_CHANGE = AugmentConfig(probability=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_parts(tmp_path_factory.mktemp("toy_asr"))


def network(**changes: Any) -> RecognizerConfig:
    """A recognizer of two small blocks; `changes` replace parts of it."""
    parts: dict[str, Any] = {
        "inputs": InputConfig(tokens=True, features=None, width=32),
        "encoder": EncoderConfig(
            kind="conformer", blocks=1, width=32, heads=2, inner=64, kernel=5, subsampling=2, dropout=0.1
        ),
        "ctc_weight": 1.0,
    }
    return RecognizerConfig(**{**parts, **changes})


def config(folder: Path, out: Path, *, model: RecognizerConfig | None = None, **changes: Any) -> TrainAsrConfig:
    """Six short updates; `changes` are the schedule's."""
    schedule: dict[str, Any] = {
        "steps": 6, "batch_frames": 600, "peak_lr": 2e-3, "warmup_steps": 2, "evaluate_steps": 3,
        "report_steps": 1, "checkpoint_steps": 2, "average_best": 2, "average_decay": 0.9,
    }  # fmt: skip
    return TrainAsrConfig(
        data=(str(folder / "train"),),
        dev=(str(folder / "dev"),),
        text_model=str(folder / "text.json"),
        out=str(out),
        model=model or network(),
        train=ScheduleConfig(**{**schedule, **changes}),
        augment=AugmentConfig(time_warp=10, mask_frames=10, mask_dims=8, replace=0.02),
        device="cpu",
    )


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_jsonl(out / "metrics.jsonl") if "loss" in row]


def weights(model: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = Recognizer.load(model, device="cpu").state_dict()
    return state


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def test_it_learns_to_spell(folder: Path, tmp_path: Path) -> None:
    """Without changes of the input a small CTC recognizer reads unseen sentences of known words."""
    found = replace(
        config(folder, tmp_path, steps=120, peak_lr=4e-3, warmup_steps=10, evaluate_steps=60, average_decay=0.0,
               average_best=1, select_by="wer", checkpoint_steps=200),
        augment=NO_CHANGE,
    )  # fmt: skip
    train_asr(found)
    last = [row for row in read_jsonl(tmp_path / "metrics.jsonl") if "dev_wer" in row][-1]
    assert last["dev_cer"] < 0.1, last


@pytest.mark.parametrize("head", ["attention", "transducer"])
def test_every_head_learns(folder: Path, tmp_path: Path, head: str) -> None:
    heads: dict[str, Any] = {
        "attention": {"decoder": DecoderConfig(blocks=1, heads=2, inner=64), "ctc_weight": 0.3},
        "transducer": {"transducer": TransducerConfig(history=2, width=32), "ctc_weight": 0.3},
    }[head]
    train_asr(config(folder, tmp_path, model=network(**heads), steps=30, evaluate_steps=30, peak_lr=5e-3))
    rows = list(read_jsonl(tmp_path / "metrics.jsonl"))
    curve = [row[head] for row in rows if head in row]
    assert np.mean(curve[-5:]) < 0.9 * np.mean(curve[:5])
    assert all(np.isfinite(row[f"dev_{head}"]) for row in rows if "dev_loss" in row)


def test_a_resumed_run_equals_an_uninterrupted_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of an epoch, between two checkpoints: dropout, augmentation, averages and curve go on."""
    whole = train_asr(config(folder, tmp_path / "whole", accumulate=2))
    stopped = config(folder, tmp_path / "stopped", accumulate=2)
    with monkeypatch.context() as patch:
        patch.setattr("voxtok.asr.train_asr.Totals", _stops_after(5))
        with pytest.raises(KeyboardInterrupt):
            train_asr(stopped)
    assert len(losses(tmp_path / "stopped")) == 5  # one more than the checkpoint of update 4
    resumed = train_asr(stopped)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    timed = [row["step"] for row in read_jsonl(tmp_path / "whole" / "metrics.jsonl") if "share_checkpoint" in row]
    assert timed == [3, 5]
    assert equal(weights(whole), weights(resumed))


def _stops_after(steps: int) -> type:
    """Totals that stand for a kill in the update after `steps`."""
    from voxtok.runtime.training import Totals

    done = [0]

    class Stopping(Totals):
        def add(self, terms: dict[str, tuple[float, float]]) -> float:
            done[0] += 1
            if done[0] > steps:
                raise KeyboardInterrupt
            return super().add(terms)

    return Stopping


def test_a_finished_run_is_left_and_another_configuration_is_refused(folder: Path, tmp_path: Path) -> None:
    first = config(folder, tmp_path, steps=3)
    model = train_asr(first)
    before = (model / "model.safetensors").stat().st_mtime_ns
    assert train_asr(first) == model
    assert (model / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="another configuration"):
        train_asr(replace(first, seed=1))


@pytest.mark.parametrize("wrong", ["seed", "workers"])
def test_negative_numbers_are_named(folder: Path, tmp_path: Path, wrong: str) -> None:
    made = config(folder, tmp_path)
    with pytest.raises(ConfigError, match=f"{wrong}.* at least 0"):
        replace(made, seed=-1) if wrong == "seed" else replace(made.train, workers=-1)


def test_what_is_said_and_heard_is_part_of_a_run(folder: Path) -> None:
    """A corrected transcript, another token or other features under the same ids are another run."""
    examples = read_examples(
        [str(folder / "dev")], network().inputs, expected=None, cache=folder, device=torch.device("cpu")
    )
    first, *others = examples.items
    assert first.tokens is not None
    changed = [replace(first, text="cat"), replace(first, tokens=first.tokens[::-1])]
    different = [replace(examples, items=[item, *others]) for item in changed] + [replace(examples, features=("a",))]
    assert len({content_of(found) for found in (examples, *different)}) == 4


def test_threads_and_bfloat16(folder: Path, tmp_path: Path) -> None:
    """Threads change nothing; bfloat16 changes little."""
    train_asr(config(folder, tmp_path / "plain", steps=4))
    train_asr(config(folder, tmp_path / "threads", steps=4, workers=2))
    train_asr(config(folder, tmp_path / "half", steps=4, dtype="bfloat16"))
    assert losses(tmp_path / "threads") == losses(tmp_path / "plain")
    assert losses(tmp_path / "half") == pytest.approx(losses(tmp_path / "plain"), rel=0.02)


def test_what_cannot_be_trained_on_is_listed(folder: Path, tmp_path: Path) -> None:
    """With an eighth of the frames, texts of many letters have no CTC path; every one is in rejected.jsonl."""
    shape = replace(network().encoder, subsampling=8)
    with pytest.raises(ConfigError, match="its text needs"):
        train_asr(config(folder, tmp_path, model=network(encoder=shape)))
    rows = list(read_jsonl(tmp_path / "rejected.jsonl"))
    assert len(rows) == 48
    assert {row["reason"] for row in rows} == {"too short for its text"}


def test_dev_data_without_texts_is_refused_for_that(folder: Path, tmp_path: Path) -> None:
    """Not for what is wrong with some of the training data."""
    dev = TokenStore.open(folder / "dev")
    silent = TokenStore.create(tmp_path / "silent", dev.info)
    silent.write_shard(0, [(cut.drop_supervisions(), tokens) for cut, tokens in dev], [], "silent")
    silent.finish(["silent"])
    found = config(folder, tmp_path, model=network(encoder=replace(network().encoder, subsampling=4)))
    with pytest.raises(ConfigError, match="to evaluate on: its cut has no transcript"):
        train_asr(replace(found, dev=(str(silent.folder),)))
    assert next(read_jsonl(tmp_path / "rejected.jsonl"))["reason"] == "too short for its text"


def test_the_pruned_loss_needs_a_frame_for_each_piece(folder: Path, tmp_path: Path) -> None:
    """The full transducer loss writes several pieces at a frame; k2's pruned one cannot."""
    examples = read_examples(
        [str(folder / "dev")], network().inputs, expected=None, cache=folder, device=torch.device("cpu")
    )
    text, shape = TextModel.load(folder / "text.json"), replace(network().encoder, subsampling=8)
    kinds: tuple[Literal["full", "pruned"], ...] = ("full", "pruned")
    trained = {}
    for loss in kinds:
        transducer = TransducerConfig(history=2, width=32, loss=loss)
        model = network(encoder=shape, transducer=transducer, ctc_weight=0.0)
        trained[loss], _ = usable(config(folder, tmp_path, model=model), examples, text, None)
    assert len(trained["full"].texts) == 8 and not trained["pruned"].texts


def test_a_loss_that_is_not_finite_is_counted_and_stops_what_diverged(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One utterance's NaN costs its update and is listed; twenty in a row end the training."""
    from voxtok.asr.losses import losses as real

    def broken(*arguments: Any) -> dict[str, torch.Tensor]:
        found = real(*arguments)
        spoiled = found["loss"].clone()
        spoiled[0] = float("nan")
        return {**found, "loss": spoiled}

    once = iter([True])
    monkeypatch.setattr("voxtok.asr.update.losses", lambda *a: broken(*a) if next(once, False) else real(*a))
    train_asr(config(folder, tmp_path / "once", steps=4))
    rows = list(read_jsonl(tmp_path / "once" / "rejected.jsonl"))
    assert [row["reason"] for row in rows] == ["loss is not finite"]
    skipped = [row["skipped"] for row in read_jsonl(tmp_path / "once" / "metrics.jsonl") if "skipped" in row]
    assert skipped == [1, 1, 1, 1]
    assert all(np.isfinite(loss) for loss in losses(tmp_path / "once"))
    monkeypatch.setattr("voxtok.asr.update.losses", broken)
    with pytest.raises(VoxtokError, match="diverged"):
        train_asr(config(folder, tmp_path / "always", steps=40))


def test_training_stops_early_and_keeps_the_best(folder: Path, tmp_path: Path) -> None:
    """A learning rate of next to nothing with weights that only get worse: patience ends it."""
    train_asr(config(folder, tmp_path, steps=50, evaluate_steps=1, patience=2, peak_lr=0.5, average_decay=0.0))
    rows = [row for row in read_jsonl(tmp_path / "metrics.jsonl") if "dev_loss" in row]
    scores = [row["dev_loss"] for row in rows]
    assert len(scores) < 50
    assert min(scores[-2:]) >= min(scores[:-2])
    kept = {int(file.stem) for file in (tmp_path / "best").glob("*.safetensors")}
    assert kept == {rows[place]["step"] for place in np.argsort(scores, kind="stable")[:2]}


def test_other_tokens_are_refused(folder: Path, tmp_path: Path) -> None:
    toy_store(tmp_path / "other", 4, seed=3, fingerprint="another")
    with pytest.raises(TokenizerMismatch, match="encode the corpus again"):
        train_asr(replace(config(folder, tmp_path / "out"), dev=(str(tmp_path / "other"),)))


def test_weights_can_come_from_a_recognizer(folder: Path, tmp_path: Path) -> None:
    first = train_asr(config(folder, tmp_path / "first", steps=3))
    still = config(folder, tmp_path / "second", steps=3, peak_lr=1e-12, average_decay=0.0)
    second = train_asr(replace(still, init=str(first)))
    assert all(torch.allclose(tensor, weights(second)[name]) for name, tensor in weights(first).items())
    save_file({name: tensor + 1 for name, tensor in weights(first).items()}, first / "model.safetensors")
    with pytest.raises(ConfigError, match="another configuration"):  # other weights, at the same place
        train_asr(replace(still, init=str(first)))
    wider = network(encoder=replace(network().encoder, blocks=2))
    with pytest.raises(ConfigError, match="another network"):
        train_asr(replace(still, init=str(first), model=wider, out=str(tmp_path / "third")))
