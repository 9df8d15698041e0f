"""Training unit language models: resumed is uninterrupted, two ranks are one, and a toy language is learnt."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.toy_lm import FINGERPRINT, RATE_HZ, toy_tokens, write_store
from tests.toy_tokenizer import toy_tokenizer
from voxtok.manifests.export import export_flat
from voxtok.manifests.store import TokenStore
from voxtok.manifests.subwords import train_subwords
from voxtok.manifests.tokens import TokenSequence
from voxtok.runtime.errors import ConfigError, TokenizerMismatch, VoxtokError
from voxtok.runtime.files import read_jsonl
from voxtok.runtime.training import load_checkpoint
from voxtok.tokenize.patterns import PatternName
from voxtok.tokenize.train import TrainConfig
from voxtok.tts.lm import LmShape, UnitLm
from voxtok.tts.lm_score import prediction_terms
from voxtok.tts.sampling import SamplingConfig, draw_utterances, unconditional
from voxtok.tts.stop_rules import StopRules
from voxtok.tts.train_lm import TrainLmConfig, train_lm

ROOT = Path(__file__).parent.parent
WORDS = ([1, 1, 2], [3, 4, 4, 4], [5, 6])


def spoken(words: list[int]) -> TokenSequence:
    """A toy language of three words, each followed by a pause, token 0."""
    frames = [frame for word in words for frame in [*WORDS[word], 0]]
    return TokenSequence(np.array(frames, dtype=np.uint8)[:, None], RATE_HZ, FINGERPRINT)


def sentences(count: int) -> list[TokenSequence]:
    """Words in turn, 2 to 5 of them, beginning with any: what follows a word is certain, not where a sentence ends."""
    return [spoken([(first + i) % 3 for i in range(2 + first % 4)]) for first in range(count)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_store(tmp_path_factory.mktemp("store"), [toy_tokens(5 + i, seed=i) for i in range(12)]))


def config(store: str, out: Path, steps: int = 6, **changes: object) -> TrainLmConfig:
    whole = TrainLmConfig(
        stores=(store,),
        valid=(store,),
        out=str(out),
        rows="frames",
        pattern="parallel",
        model=LmShape(blocks=1, width=16, heads=2, feed_forward=24, context_steps=24, dropout=0.1),
        batch_steps=72,
        train=TrainConfig(
            steps=steps, peak_lr=1e-2, warmup_steps=1, decay_share=0.0, report_steps=1, checkpoint_steps=2
        ),
        device="cpu",
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def metrics(out: Path) -> list[dict[str, float]]:
    timed = ("hours_per_hour", "share_")
    return [
        {name: value for name, value in row.items() if not name.startswith(timed)}
        for row in read_jsonl(out / "metrics.jsonl")
    ]


def test_a_resumed_run_is_the_uninterrupted_one(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_lm(config(store, tmp_path / "whole"))
    from voxtok.tts import train_lm as module

    class Killed(Exception):
        pass

    update = module.update

    def dying(*arguments: object) -> object:
        if arguments[3] == 5:  # the sixth step, after the checkpoint of the fourth
            raise Killed
        return update(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "update", dying)
    with pytest.raises(Killed):
        train_lm(config(store, tmp_path / "killed"))
    monkeypatch.setattr(module, "update", update)
    train_lm(config(store, tmp_path / "killed"))
    (tmp_path / "killed" / "done.json").unlink()  # as if killed after the last checkpoint
    train_lm(config(store, tmp_path / "killed"))
    whole, resumed = metrics(tmp_path / "whole"), metrics(tmp_path / "killed")
    assert resumed == whole
    assert [row["step"] for row in whole] == [1, 2, 2, 3, 4, 4, 5, 6, 6]
    assert {"loss", "perplexity", "bits_per_s", "accuracy", "lr"} <= set(whole[0])
    assert {"valid_perplexity", "valid_bits_per_s"} <= set(whole[2])
    timed = list(read_jsonl(tmp_path / "whole" / "metrics.jsonl"))[3]  # after the checkpoint of step 2
    assert {"share_evaluation", "share_checkpoint"} <= set(timed)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]


def test_threads_flat_tokens_and_a_second_call_change_nothing(store: str, tmp_path: Path) -> None:
    train_lm(config(store, tmp_path / "a", train=replace(config(store, tmp_path).train, workers=2)))
    export_flat(TokenStore.open(store), tmp_path / "flat")
    train_lm(config(str(tmp_path / "flat"), tmp_path / "b"))
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    before = (tmp_path / "b" / "model.safetensors").stat().st_mtime_ns
    train_lm(config(str(tmp_path / "flat"), tmp_path / "b"))
    assert (tmp_path / "b" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="training of another configuration"):
        train_lm(config(str(tmp_path / "flat"), tmp_path / "b", seed=3))


def test_other_options_or_tokens_are_refused_before_anything_changes(tmp_path: Path) -> None:
    """Tokens at the same place too, if they have become more or others."""
    store, out, tokenizer = tmp_path / "store", tmp_path / "lm", toy_tokenizer()

    def write(count: int, reverse: bool = False) -> None:
        write_store(store, sentences(count)[:: -1 if reverse else 1])
        tokenizer.save(store / "tokenizer")
        described = json.loads((store / "store.json").read_text())
        (store / "store.json").write_text(json.dumps(described | {"fingerprint": tokenizer.fingerprint}))

    write(4)
    whole = config(str(store), out, steps=2)
    train_lm(whole)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert out / "tokenizer" / "tokenizer.json" in before
    train_lm(whole)
    with pytest.raises(ConfigError, match="another configuration"):
        train_lm(replace(whole, seed=1))
    for count, reverse in ((5, False), (4, True)):
        write(count, reverse)
        with pytest.raises(ConfigError, match="another configuration"):
            train_lm(whole)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_tiny_model_learns_a_toy_language_and_continues_it(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", sentences(24))
    shape = LmShape(blocks=1, width=32, heads=2, feed_forward=48, context_steps=64)
    steps = TrainConfig(
        steps=120, peak_lr=1e-2, warmup_steps=5, decay_share=0.5, report_steps=120, checkpoint_steps=120
    )
    for rows, pattern in (("frames", "parallel"), ("timed", "delayed"), ("timed", "flattened")):
        out = tmp_path / f"{rows}-{pattern}"
        train_lm(
            config(
                str(store), out, model=shape, train=steps, batch_steps=256, rows=rows, pattern=pattern,
                max_duration_frames=8,
            )
        )  # fmt: skip
        lm = UnitLm.load(out, device="cpu")
        prompts = [unconditional(lm, spoken([word])) for word in range(3)]
        rules = [StopRules(max_s=0.5, loop_s=9.0, stuck_tokens=0)] * 3
        for word, found in enumerate(draw_utterances(lm, prompts, SamplingConfig(temperature=0.0), rules, [0] * 3)):
            after = found.tokens.codes[len(spoken([word])) :, 0].tolist()
            expected = spoken([(word + i) % 3 for i in range(1, 9)]).codes[: len(after), 0].tolist()
            assert after == expected, (rows, pattern)
            assert len(after) > 3


def test_stores_of_two_tokenizers_and_other_folders_are_refused(store: str, tmp_path: Path) -> None:
    other = write_store(tmp_path / "other", [toy_tokens(9)])
    described = json.loads((other / "store.json").read_text())
    (other / "store.json").write_text(json.dumps(described | {"fingerprint": "e" * 64}))
    with pytest.raises(TokenizerMismatch, match="eeeeeeeeeeee"):
        train_lm(config(store, tmp_path / "lm", stores=(store, str(other))))
    with pytest.raises(TokenizerMismatch, match="eeeeeeeeeeee"):
        train_lm(config(store, tmp_path / "lm", valid=(str(other),)))
    with pytest.raises(ConfigError, match="batch-steps must be at least"):
        config(store, tmp_path, batch_steps=8)
    with pytest.raises(ConfigError, match="seed must be at least 0"):
        config(store, tmp_path, seed=-1)
    with pytest.raises(ConfigError, match="max-duration-frames"):
        train_lm(config(store, tmp_path / "lm", rows="timed"))


@pytest.mark.parametrize("pattern", ["parallel", "flattened", "delayed"])
def test_several_streams_merged_and_in_pieces(pattern: PatternName, tmp_path: Path) -> None:
    two = [toy_tokens(9 + i, (7, 5), seed=i) for i in range(6)]
    one = [toy_tokens(40 + i, seed=i) for i in range(6)]
    merged = [tokens.dedup() for tokens in one]
    subwords = train_subwords([tokens.codes[:, 0] for tokens in one], unit_vocab_size=7, vocab_size=12, kind="bpe")
    pieces = [subwords.apply(tokens, FINGERPRINT) for tokens in one]
    for name, utterances, sizes in (("two", two, (7, 5)), ("merged", merged, (7,)), ("pieces", pieces, (12,))):
        store = write_store(tmp_path / name, utterances, sizes)
        if name == "pieces":
            described = json.loads((store / "store.json").read_text())
            (store / "store.json").write_text(json.dumps(described | {"bpe": subwords.sha256}))
        for rows in ("frames", "merged", "timed"):
            shape = replace(config("", tmp_path).model, context_steps=200)
            changed = config(
                str(store), tmp_path / f"{name}-{rows}", steps=2, rows=rows, pattern=pattern, max_duration_frames=99,
                model=shape, batch_steps=200,
            )  # fmt: skip
            if rows == "frames" and name != "two":
                with pytest.raises(ConfigError, match="merged or subword pieces"):
                    train_lm(changed)
                continue
            train_lm(changed)
            lm = UnitLm.load(tmp_path / f"{name}-{rows}", device="cpu")
            rules = StopRules(max_s=0.4, loop_s=9.0, stuck_tokens=0)
            prompt = unconditional(lm, utterances[0])
            found = draw_utterances(lm, [prompt], SamplingConfig(temperature=1.0), [rules], [0])[0].tokens
            assert found.codes.shape[1] == len(sizes)
            assert (found.durations is not None) == (rows == "timed" and name != "two")
            begun = lm.layout.rows_of(found)[: len(lm.layout.rows_of(utterances[0])) - 1]
            assert begun.tolist() == lm.layout.rows_of(utterances[0])[:-1].tolist()


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from dataclasses import replace
from tests.test_train_lm import config
from voxtok.runtime.distributed import connected_ranks
from voxtok.tts.train_lm import train_lm
if __name__ == "__main__":
    with connected_ranks() as ranks:
        whole = config(sys.argv[2], Path(sys.argv[1]))
        train_lm(replace(whole, model=replace(whole.model, dropout=0.0)), ranks)
"""


@pytest.mark.slow
def test_two_ranks_train_as_one(store: str, tmp_path: Path) -> None:
    whole = config(store, tmp_path / "one")
    train_lm(replace(whole, model=replace(whole.model, dropout=0.0)))
    (tmp_path / "script.py").write_text(SCRIPT.format(root=str(ROOT)))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*torchrun, str(tmp_path / "script.py"), str(tmp_path / "two"), store], check=True)
    for one, two in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert one == pytest.approx(two, rel=1e-3)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_training(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: float
) -> None:
    """In the third step; the checkpoint of the second is from before."""
    steps = [0]

    def diverging(*given: Any) -> torch.Tensor:
        steps[0] += 1
        return prediction_terms(*given) * (loss if steps[0] == 3 else 1.0)

    monkeypatch.setattr("voxtok.tts.train_lm.prediction_terms", diverging)
    with pytest.raises(VoxtokError, match="not finite in step 3"):
        train_lm(config(store, tmp_path, valid=()))
    state = load_checkpoint(tmp_path / "training.pt").state["model"]
    assert all(bool(tensor.isfinite().all()) for tensor in state.values())


def test_a_loss_beyond_all_perplexities_is_reported(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """e to its power is no number of 64 bits."""
    scale = torch.tensor([1e4, 1.0, 1.0])
    monkeypatch.setattr("voxtok.tts.train_lm.prediction_terms", lambda *given: prediction_terms(*given) * scale)
    train_lm(config(store, tmp_path, steps=2, valid=()))
    rows = metrics(tmp_path)
    assert rows[0]["loss"] > 1000 and rows[0]["perplexity"] > 1e300


def test_bfloat16_learns_too(store: str, tmp_path: Path) -> None:
    train = replace(config(store, tmp_path).train, dtype="bfloat16", steps=8, saved_dtype="float16")
    train_lm(config(store, tmp_path / "lm", train=train))
    losses = [row["loss"] for row in metrics(tmp_path / "lm") if "loss" in row]
    assert losses[-1] < losses[0]
    assert next(UnitLm.load(tmp_path / "lm", device="cpu").parameters()).dtype == torch.float32
