"""Masked-prediction training: it learns, a resumed run is the uninterrupted one, two ranks are one."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
import torch
from transformers import HubertModel

from tests.toy_corpus import write_toy_corpus
from tests.toy_tokenizer import toy_tokenizer
from voxtok.manifests.cuts import load_cuts
from voxtok.runtime.errors import ConfigError, CorruptFile, VoxtokError
from voxtok.runtime.files import read_jsonl
from voxtok.tokenize.crops import CropConfig
from voxtok.tokenize.disguise import Disguise
from voxtok.tokenize.encode import encode_corpus
from voxtok.tokenize.heads import Heads, load_heads
from voxtok.tokenize.load import load_upstream
from voxtok.tokenize.pretrain import PretrainConfig, masked_prediction, pretrain
from voxtok.tokenize.student import Shape
from voxtok.tokenize.train import TrainConfig

ROOT = Path(__file__).parent.parent
SHAPE = Shape(
    width=32, blocks=2, heads=2, inner=48, channels=(16, 16, 24), kernels=(320, 2, 2), strides=(80, 2, 2),
    positions=8, position_groups=4, gabor=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Tokens of the toy corpus by two codebooks."""
    folder = tmp_path_factory.mktemp("stores")
    cuts = load_cuts(write_toy_corpus(folder / "corpus", [1.0 + 0.1 * i for i in range(12)]))
    for name, vocab_size in (("a", 12), ("b", 20)):
        encode_corpus(cuts, toy_tokenizer(vocab_size), folder / name, shard_size=4)
    return str(folder / "a"), str(folder / "b")


def config(stores: tuple[str, ...], out: Path, steps: int = 6, **changes: object) -> PretrainConfig:
    whole = PretrainConfig(
        stores=stores,
        out=str(out),
        model=SHAPE,
        crops=CropConfig(
            batch_s=4.0, crop_s=1.5, mask_share=0.8, mask_frames=5,
            disguise=Disguise(speed=0.5, equalizer=0.5, noise=0.5, voice=0.5, room=0.5),
        ),
        train=TrainConfig(
            steps=steps, peak_lr=3e-3, warmup_steps=1, decay_share=0.0, report_steps=1, checkpoint_steps=2
        ),
        device="cpu",
    )  # fmt: skip
    return replace(whole, **changes)  # type: ignore[arg-type]


def averaged(whole: PretrainConfig, decay: float) -> PretrainConfig:
    return replace(whole, train=replace(whole.train, average_decay=decay))


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_jsonl(out / "metrics.jsonl")]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = HubertModel.from_pretrained(folder).state_dict()
    return state


def test_training_learns_and_its_folder_is_an_upstream(stores: tuple[str, str], tmp_path: Path) -> None:
    model = pretrain(config(stores, tmp_path, steps=30, supervised=(1, 2), unmasked_weight=0.5))
    found = losses(tmp_path)
    assert len(found) == 30
    assert sum(found[-10:]) < 0.9 * sum(found[:10])
    shares = list(read_jsonl(tmp_path / "metrics.jsonl"))[2]  # after the checkpoint of step 2
    assert {"share_data", "share_forward", "share_backward", "share_update", "share_checkpoint"} <= set(shares)
    upstream = load_upstream(str(model), device="cpu")
    features, frames = upstream.extract(torch.randn(1, 16000), torch.tensor([16000]), [2])
    assert features[2].shape == (1, 49, 32)
    assert frames.tolist() == [49]
    assert upstream.hop_samples == 320


def test_a_resumed_run_equals_an_uninterrupted_one(
    stores: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = replace(SHAPE, dropout=0.2)  # which must draw what it would have
    whole = pretrain(averaged(config(stores, tmp_path / "whole", model=shape), 0.5))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    stopped = averaged(config(stores, tmp_path / "stopped", model=shape), 0.5)
    with monkeypatch.context() as patch:
        patch.setattr("voxtok.tokenize.train.save_model", killed)
        patch.setattr("voxtok.tokenize.train.Totals", stops_after(5))
        with pytest.raises(KeyboardInterrupt):
            pretrain(stopped)
    assert len(losses(tmp_path / "stopped")) == 5  # one more than the checkpoint of step 4
    for _ in range(2):
        resumed = pretrain(stopped)
        assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
        assert all(torch.equal(a, weights(resumed)[name]) for name, a in weights(whole).items())
        (tmp_path / "stopped" / "done.json").unlink()  # as if killed after the last checkpoint


def test_an_average_of_weights_is_kept(stores: tuple[str, str], tmp_path: Path) -> None:
    """After step n its decay is (1 + n) / (10 + n), below 0.9 here: 3 / 12 after the second, 4 / 13 after the third."""
    last = weights(pretrain(config(stores, tmp_path / "last", steps=3)))
    before = averaged(config(stores, tmp_path / "two", steps=2), 0.9), averaged(config(stores, tmp_path, steps=3), 0.9)
    two, three = (weights(pretrain(one)) for one in before)
    assert any(not torch.allclose(three[name], last[name], atol=1e-4) for name in last)
    assert all(torch.allclose(three[name], two[name] * 4 / 13 + last[name] * 9 / 13, atol=1e-6) for name in last)
    with pytest.raises(ConfigError, match="average-decay"):
        averaged(config(stores, tmp_path), 1.0)


def stops_after(steps: int) -> type:
    """Totals that stand for a kill in the step after `steps`."""
    from voxtok.runtime.training import Totals

    done = [0]

    class Stopping(Totals):
        def add(self, terms: dict[str, tuple[float, float]]) -> float:
            done[0] += 1
            if done[0] > steps:
                raise KeyboardInterrupt
            return super().add(terms)

    return Stopping


def test_a_finished_run_is_left_and_another_configuration_is_refused(stores: tuple[str, str], tmp_path: Path) -> None:
    first = config(stores, tmp_path, steps=2)
    model = pretrain(first)
    before = (model / "model.safetensors").stat().st_mtime_ns
    assert pretrain(first) == model
    assert (model / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="another configuration"):
        pretrain(replace(first, seed=1))
    (tmp_path / "training.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CorruptFile, match="not a training checkpoint"):
        pretrain(replace(first, seed=1))


def test_a_store_written_anew_is_another_configuration(tmp_path: Path) -> None:
    """Tokens of other speech by the same tokenizer, in a folder of the same name: a run was taken for theirs."""

    def corpus(name: str, first_s: float) -> Path:
        return write_toy_corpus(tmp_path / name, [first_s, 1.1, 1.2, 1.3])

    def encoded(cuts: Path, store: str) -> str:
        encode_corpus(load_cuts(cuts), toy_tokenizer(12), tmp_path / store, shard_size=3)
        return str(tmp_path / store)

    one, other = corpus("one", 1.0), corpus("other", 1.05)
    stores, labels = (encoded(one, "store"),), (encoded(one, "labels"),)
    first = config(stores, tmp_path / "run", steps=2, labels=labels)
    model = pretrain(first)
    assert pretrain(replace(first, labels=(encoded(one, "moved"),))) == model
    for changed in ("store", "labels"):
        encoded(other, changed)
        with pytest.raises(ConfigError, match="another configuration"):
            pretrain(first)
        encoded(one, changed)
        assert pretrain(first) == model


def test_two_ranks_equal_one(stores: tuple[str, str], tmp_path: Path) -> None:
    one = pretrain(config(stores, tmp_path / "one", steps=3, centering=3.0))
    _on_two_ranks("pretrain(config(stores, out, steps=3, centering=3.0), ranks)", tmp_path / "two", stores)
    shares = [[row["share_of_means"] for row in read_jsonl(tmp_path / run / "metrics.jsonl")] for run in ("two", "one")]
    assert shares[0] == pytest.approx(shares[1], rel=1e-4)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    two = weights(tmp_path / "two" / "model")
    assert all(torch.allclose(a, two[name], atol=2e-3) for name, a in weights(one).items())


def test_a_rank_may_have_no_crop_of_a_batch(stores: tuple[str, str], tmp_path: Path) -> None:
    """Batches of one crop: nothing is left for the second rank."""
    crops = CropConfig(batch_s=1.5, crop_s=1.5, mask_share=0.8, mask_frames=5)
    one = config(stores, tmp_path / "one", steps=3, crops=crops, centering=3.0)
    pretrain(one)
    program = f"""
crops = {crops!r}
pretrain(config(stores, out, steps=3, crops=crops, centering=3.0), ranks)
"""
    _on_two_ranks(program, tmp_path / "two", stores)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


def test_two_ranks_resumed_are_two_ranks_uninterrupted(stores: tuple[str, str], tmp_path: Path) -> None:
    """Each rank draws its own dropout; after a resume, rank 1 must not draw that of rank 0."""
    program = """
shape = replace(SHAPE, dropout=0.2)
pretrain(config(stores, out / "whole", model=shape), ranks)
with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr("voxtok.tokenize.train.Totals", stops_after(5))
    pretrain(config(stores, out / "stopped", model=shape), ranks)
pretrain(config(stores, out / "stopped", model=shape), ranks)
"""
    _on_two_ranks(program, tmp_path, stores)
    assert len(losses(tmp_path / "whole")) == 6
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    resumed = weights(tmp_path / "stopped" / "model")
    assert all(torch.equal(a, resumed[name]) for name, a in weights(tmp_path / "whole" / "model").items())


def _on_two_ranks(program: str, out: Path, stores: tuple[str, str]) -> None:
    """Run lines that know `out`, `stores` and `ranks`."""
    head = """
import sys
from tests.test_pretrain import *
from voxtok.runtime.distributed import connected_ranks
torch.set_num_threads(1)
out, stores = Path(sys.argv[1]), tuple(sys.argv[2:])
with connected_ranks() as ranks:
"""
    out.mkdir(exist_ok=True)
    (out / "script.py").write_text(head + indent(program, "    "))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, str(out / "script.py"), str(out), *stores],
        cwd=ROOT, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_what_is_not_finite_ends_training_before_it_is_kept(
    stores: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def infinite(*arguments: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        terms = masked_prediction(*arguments)
        return terms | {"loss": (terms["loss"][0] * math.inf, terms["loss"][1])}

    monkeypatch.setattr("voxtok.tokenize.pretrain.masked_prediction", infinite)
    with pytest.raises(VoxtokError, match="not finite in step 1"):
        pretrain(config(stores, tmp_path))
    assert not (tmp_path / "training.pt").exists()


def test_centering_learns_frames_whose_means_are_alike(stores: tuple[str, str], tmp_path: Path) -> None:
    def shares(run: str, centering: float) -> list[float]:
        pretrain(config(stores, tmp_path / run, steps=40, centering=centering))
        return [row.get("share_of_means", 0.0) for row in read_jsonl(tmp_path / run / "metrics.jsonl")]

    assert sum(shares("off", 0.0)) == 0  # is not reported
    little, much = shares("little", 1e-6), shares("much", 30.0)
    assert much[0] == little[0]
    assert sum(much[20:]) < 0.8 * sum(little[20:]), (little, much)
    with pytest.raises(ConfigError, match="negative"):
        config(stores, tmp_path, centering=-1.0)


def test_the_front_can_be_frozen(stores: tuple[str, str], tmp_path: Path) -> None:
    first = pretrain(config(stores, tmp_path / "first", steps=2))
    second = pretrain(config(stores, tmp_path / "second", steps=2, init=str(first), frozen_front=True))
    before, after = weights(first), weights(second)
    for name in before:
        assert torch.equal(before[name], after[name]) == name.startswith("feature_extractor"), name
    with pytest.raises(ConfigError, match="another shape"):
        pretrain(config(stores, tmp_path / "third", model=replace(SHAPE, inner=64), init=str(first)))
    with pytest.raises(ConfigError, match="needs init"):
        config(stores, tmp_path, frozen_front=True)


def test_logits_with_a_temperature_are_cosines() -> None:
    torch.manual_seed(0)
    heads = Heads(1, 8, (3, 4), temperature=0.1)
    frames = torch.randn(5, 8)
    first, second = (logits.detach() for logits in heads([frames])[0])
    normal = torch.nn.functional.layer_norm(frames, (8,))
    found = torch.cat([first, second], dim=1)
    rows = heads.get_parameter("outputs.0.weight").detach()
    for i in range(5):
        for j in range(7):
            cosine = float(normal[i] @ rows[j] / (normal[i].norm() * rows[j].norm()))
            assert float(found[i, j]) == pytest.approx(cosine / 0.1, abs=1e-4)


def test_predictions_are_an_upstream(stores: tuple[str, str], tmp_path: Path) -> None:
    """Its features are logits of the last block, as the loss has them, each the mean of three."""
    run = tmp_path / "run"
    model = HubertModel.from_pretrained(pretrain(config(stores, run, supervised=(1, 2), temperature=0.2))).eval()
    assert (run / "heads.safetensors").exists()
    waveforms = torch.randn(2, 8000)
    upstream = load_upstream(f"predicted:1:{run}", device="cpu")
    features, counts = upstream.extract(waveforms, torch.tensor([8000, 5000]), [0])
    assert (upstream.width, upstream.num_layers, counts.tolist()) == (20, 0, [24, 14])
    normal = (waveforms[0] - waveforms[0].mean()) / waveforms[0].std(correction=0)
    with torch.inference_mode():
        hidden = model(normal[None]).last_hidden_state[0]
        logits = load_heads(run / "heads.safetensors")([hidden, hidden])[1][1]
    torch.testing.assert_close(features[0][0, 5], logits[4:7].mean(0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(features[0][0, 0], (2 * logits[0] + logits[1]) / 3, rtol=1e-3, atol=1e-3)
    assert not features[0][1, 14:].any()
    for name in (f"predicted:2:{run}", "predicted:x"):
        with pytest.raises(ConfigError, match="predict"):
            load_upstream(name, device="cpu")


def test_half_precision_weights_are_saved_as_such(stores: tuple[str, str], tmp_path: Path) -> None:
    base = config(stores, tmp_path, steps=2)
    model = pretrain(replace(base, train=replace(base.train, saved_dtype="float16", dtype="bfloat16")))
    assert json.loads((model / "preprocessor_config.json").read_text())["do_normalize"] is True
    assert (
        2 * sum(tensor.numel() for tensor in weights(model).values())
        < ((model / "model.safetensors").stat().st_size)
        < 3 * sum(tensor.numel() for tensor in weights(model).values())
    )
    as_usual = (tmp_path / "metrics.jsonl").stat().st_mode
    for file in (model / "model.safetensors", tmp_path / "heads.safetensors"):
        assert file.stat().st_mode == as_usual  # not for the owner alone, as temporary files are
