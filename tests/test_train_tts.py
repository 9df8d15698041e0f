"""Training a text-to-token model: it learns durations and tokens, resumes, and refuses what it was not made for."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lhotse import SupervisionSegment
from safetensors.torch import load_file

from tests.toy_corpus import write_toy_corpus
from tests.toy_spelling import (
    EDGE_FRAMES,
    PAUSE_FRAMES,
    alignment,
    letter_frames,
    spelled,
    write_lexicon,
    write_spelling,
)
from tests.toy_tokenizer import toy_tokenizer
from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.store import StoreInfo, TokenStore
from voxtok.manifests.tokens import TokenSequence
from voxtok.runtime.errors import ConfigError, CorruptFile, TokenizerMismatch, VoxtokError
from voxtok.runtime.files import read_json, read_jsonl, write_json
from voxtok.tokenize.encode import encode_corpus
from voxtok.tokenize.train import TrainConfig
from voxtok.tts.aligner import AlignerConfig, spread
from voxtok.tts.corpus import CorpusConfig
from voxtok.tts.network import Decoder, TtsShape
from voxtok.tts.refinement import Decoding
from voxtok.tts.synthesizer import Synthesizer, tts_folder
from voxtok.tts.text import TextConfig
from voxtok.tts.train_tts import TrainTtsConfig, keep_voices, train_tts, update
from voxtok.tts.trained_voices import TrainedVoices
from voxtok.tts.tts_loss import terms
from voxtok.tts.utterances import Rows, fill_gaps

ROOT = Path(__file__).parent.parent

SHAPE = TtsShape(
    rows="frames", decoder="parallel", width=32, heads=2, encoder_blocks=1, decoder_blocks=1, kernel=3, expansion=2,
    dropout=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens of the toy corpus, and its vowels as a lexicon."""
    folder = tmp_path_factory.mktemp("tts")
    cuts = load_cuts(write_toy_corpus(folder / "corpus", [1.0 + 0.1 * i for i in range(8)]))
    encode_corpus(cuts, toy_tokenizer(12), folder / "frames", shard_size=4)
    (folder / "lexicon.txt").write_text("".join(f"{vowel} {vowel}\n" for vowel in "aeiou"))
    return folder


def config(stores: Path, out: Path, steps: int = 6, **changes: object) -> TrainTtsConfig:
    text = TextConfig(kind="lexicon", language="en-us", lexicon=str(stores / "lexicon.txt"))
    whole = TrainTtsConfig(
        data=CorpusConfig(store=str(stores / "frames"), text=text, durations="alignment"),
        out=str(out),
        model=SHAPE,
        batch_frames=300,
        train=TrainConfig(
            steps=steps, peak_lr=3e-3, warmup_steps=1, decay_share=0.0, report_steps=1, checkpoint_steps=2
        ),
        average_decay=0.9,
        device="cpu",
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_jsonl(out / "metrics.jsonl")]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model.safetensors")


def spelling(folder: Path, steps: int, **changes: object) -> TrainTtsConfig:
    """Of the store in `folder`, whose tokens spell its texts."""
    text = TextConfig(kind="lexicon", language="en-us", lexicon=str(write_lexicon(folder / "lexicon.txt")))
    data = CorpusConfig(store=str(folder / "store"), text=text, durations="alignment")
    return replace(config(folder, folder / "out", steps=steps, data=data), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "decoder", "dedup"),
    [
        ("frames", "parallel", False),
        ("frames", "masked", True),
        ("merged", "parallel", False),
        ("merged", "masked", True),
    ],
)
def test_a_tiny_model_learns_to_spell(rows: Rows, decoder: Decoder, dedup: bool, tmp_path: Path) -> None:
    """An unseen sentence has its tokens, right to the frame but for one, in the form of their tokenizer."""
    write_spelling(tmp_path / "store", 24, dedup=dedup)
    out = train_tts(spelling(tmp_path, 100, model=replace(SHAPE, rows=rows, decoder=decoder)))
    metrics = list(read_jsonl(out / "metrics.jsonl"))
    assert metrics[-1]["duration_error_rows"] < 0.3 < metrics[0]["duration_error_rows"]
    assert metrics[-1]["accuracy"] > 0.95 > metrics[0]["accuracy"]
    (said,) = Synthesizer.load(out, device="cpu").tokens(["dog ate code"], Decoding(), seed=0)
    assert isinstance(said, TokenSequence)
    truth = spelled("dog ate code", said.fingerprint)
    assert (said.durations is not None) == dedup
    assert said.dedup().codes[:, 0].tolist() == truth.dedup().codes[:, 0].tolist()
    lasted, wanted = said.dedup().durations, truth.dedup().durations
    assert lasted is not None and wanted is not None
    assert np.abs(lasted.astype(int) - wanted).max() <= 1


def test_several_streams(tmp_path: Path, stores: Path) -> None:
    """Two streams that differ are each learnt."""
    source = TokenStore.open(stores / "frames")
    rows = [(cut, TokenSequence(np.concatenate([one.codes, 11 - one.codes], axis=1), one.frame_rate_hz, "two" * 20))
            for cut, one in source]  # fmt: skip
    info = StoreInfo(fingerprint="two" * 20, frame_rate_hz=source.frame_rate_hz, vocab_sizes=(12, 12), dedup=False,
                     shard_size=8)  # fmt: skip
    store = TokenStore.create(tmp_path / "two", info)
    store.write_shard(0, rows, [], "x")
    store.finish(["x"])
    whole = config(stores, tmp_path / "out", steps=80, model=replace(SHAPE, decoder="masked"))
    whole = replace(whole, data=replace(whole.data, store=str(tmp_path / "two")))
    model = Synthesizer.load(train_tts(whole), device="cpu")
    (said,) = model.tokens([rows[0][0].supervisions[0].text], Decoding(rounds=4), seed=0)
    assert isinstance(said, TokenSequence) and said.codes.shape[1] == 2
    assert float((said.codes[:, 0] + said.codes[:, 1] == 11).mean()) > 0.6


def test_the_aligner_finds_how_long_letters_last(tmp_path: Path) -> None:
    """Letters last 2 to 4 frames, pauses 4: durations by CTC come close, and an unseen sentence is spelled as it is."""
    data = CorpusConfig(
        store=str(write_spelling(tmp_path / "store", 24)), text=TextConfig(kind="characters", language="en-us"),
        durations="ctc", aligner=AlignerConfig(steps=100, batch_frames=200, width=32, peak_lr=1e-2, prior_power=0),
    )  # fmt: skip
    out = train_tts(replace(config(tmp_path, tmp_path / "out", steps=120), data=data))
    missed = []
    for row in list(read_jsonl(out / "durations.jsonl"))[1:]:
        marks = {"<start>": EDGE_FRAMES, "<stop>": EDGE_FRAMES, "<space>": PAUSE_FRAMES}
        wanted = [marks.get(symbol) or letter_frames(symbol) for symbol in row["symbols"].split()]
        missed += np.abs(np.array(row["frames"]) - wanted).tolist()
    assert max(missed) <= 3 and np.mean(missed) < 0.5
    model = Synthesizer.load(out, device="cpu")
    (said,) = model.tokens(["dog ate code"], Decoding(), seed=0)
    assert isinstance(said, TokenSequence)
    truth = spelled("dog ate code", said.fingerprint)
    assert abs(len(said) - len(truth)) <= 4
    assert said.dedup().codes[:, 0].tolist() == truth.dedup().codes[:, 0].tolist()


def test_a_resumed_run_equals_an_uninterrupted_one(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = replace(SHAPE, decoder="masked", dropout=0.2)  # which must draw what it would have
    whole = train_tts(config(stores, tmp_path / "whole", model=shape))
    stopped = config(stores, tmp_path / "stopped", model=shape)
    done = [0]

    def killed(*parts: Any) -> Any:
        done[0] += 1
        if done[0] > 5:
            raise KeyboardInterrupt
        return update(*parts)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("voxtok.tts.train_tts.update", killed)
        train_tts(stopped)
    assert len(losses(tmp_path / "stopped")) == 5  # one more than the checkpoint of step 4
    for _ in range(2):
        resumed = train_tts(stopped)
        assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
        assert weights(resumed).keys() == weights(whole).keys()
        assert all(torch.equal(tensor, weights(resumed)[name]) for name, tensor in weights(whole).items())
        (tmp_path / "stopped" / "done.json").unlink()  # as if killed after the last checkpoint


def test_a_loss_that_is_not_finite_ends_the_training(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voxtok.tts.train_tts.terms", lambda *given: terms(*given) * float("nan"))
    with pytest.raises(VoxtokError, match="not finite in step 1"):
        train_tts(config(stores, tmp_path))
    assert not (tmp_path / "training.pt").exists()


def test_two_ranks_equal_one(stores: Path, tmp_path: Path) -> None:
    one = train_tts(config(stores, tmp_path / "one", steps=3))
    script = (
        "from pathlib import Path; from tests.test_train_tts import *; import sys, torch; torch.set_num_threads(1)\n"
        "from voxtok.runtime.distributed import connected_ranks\n"
        "with connected_ranks() as ranks: train_tts(config(Path(sys.argv[2]), Path(sys.argv[1]), steps=3), ranks)\n"
    )
    (tmp_path / "script.py").write_text(script)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, str(tmp_path / "script.py"), str(tmp_path / "two"), str(stores)],
        cwd=ROOT, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(one), rel=1e-4)
    two = weights(tmp_path / "two")
    assert all(torch.allclose(a, two[name], atol=2e-3) for name, a in weights(one).items())


def test_a_finished_run_is_left_and_another_configuration_is_refused(stores: Path, tmp_path: Path) -> None:
    first = config(stores, tmp_path, steps=2)
    out = train_tts(first)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert train_tts(first) == out
    with pytest.raises(ConfigError, match="another configuration"):
        train_tts(replace(first, seed=1))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert (out / "tokenizer" / "tokenizer.json").exists()


def rewrite(folder: Path, change: Any) -> None:
    """The same store with its cuts changed."""
    source = TokenStore.open(folder)
    rows, info = list(source), source.info
    for cut, _ in rows:
        change(cut.supervisions[0])
    shutil.rmtree(folder)
    store = TokenStore.create(folder, replace(info, shard_size=len(rows)))
    store.write_shard(0, rows, [], "x")
    store.finish(["x"])


def test_corrected_texts_speakers_and_alignments_are_another_training(tmp_path: Path) -> None:
    """Their counts are what they were; durations are found anew where no checkpoint was written."""
    write_spelling(tmp_path / "store", 6)
    whole = spelling(tmp_path, 2)
    out = train_tts(whole)
    train_tts(whole)

    def earlier(segment: SupervisionSegment) -> None:
        segment.alignment["phone"][-1] = segment.alignment["phone"][-1]._replace(duration=1 / 50)

    def corrected(segment: SupervisionSegment) -> None:
        segment.text = segment.text.replace("cat", "act")
        segment.alignment["phone"] = alignment(segment.text)

    for change in (earlier, corrected, lambda segment: setattr(segment, "speaker", "ann")):
        rewrite(tmp_path / "store", change)
        with pytest.raises(ConfigError, match="another configuration"):
            train_tts(whole)
        before = list(read_jsonl(out / "durations.jsonl"))
        for name in ("training.pt", "done.json"):
            (out / name).unlink()  # as if killed before the first checkpoint
        train_tts(whole)
        assert (list(read_jsonl(out / "durations.jsonl")) == before) == (change not in (earlier, corrected))


def test_held_out_speech_is_measured_and_smaller_numbers_saved(stores: Path, tmp_path: Path) -> None:
    whole = config(stores, tmp_path, steps=3, model=replace(SHAPE, decoder="masked", speaker="table"))
    data = replace(whole.data, valid=whole.data.store)
    train = replace(whole.train, saved_dtype="float16", dtype="bfloat16")
    out = train_tts(replace(whole, data=data, train=train))
    rows = [row for row in read_jsonl(out / "metrics.jsonl") if "valid_loss" in row]
    assert len(rows) == 2 and rows[0]["valid_loss"] > 0 and rows[0]["valid_duration_error_rows"] > 0
    timed = [row for row in read_jsonl(out / "metrics.jsonl") if "share_evaluation" in row]
    assert [row["step"] for row in timed] == [3] and "share_checkpoint" in timed[0]
    model = Synthesizer.load(out, device="cpu")
    assert model.speakers.names == ("s0", "s1")
    parameters = sum(tensor.numel() for tensor in weights(out).values())
    assert (out / "model.safetensors").stat().st_size < 3 * parameters


def test_what_cannot_be_used_is_listed(stores: Path, tmp_path: Path) -> None:
    """One text has a word that the lexicon lacks, and one alignment is of other phones."""
    source = TokenStore.open(stores / "frames")
    rows = list(source)
    for (cut, _), text in zip(rows, ["a b", "a i", *(cut.supervisions[0].text for cut, _ in rows[2:])], strict=True):
        cut.supervisions[0].text = text
    store = TokenStore.create(tmp_path / "odd", replace(source.info, shard_size=8))
    store.write_shard(0, rows, [], "x")
    store.finish(["x"])
    whole = config(stores, tmp_path / "out", steps=2)
    train_tts(replace(whole, data=replace(whole.data, store=str(tmp_path / "odd"))))
    rejected = {row["id"]: row for row in read_jsonl(tmp_path / "out" / "rejected.jsonl")}
    assert set(rejected) == {"utt000", "utt001"}
    assert "no phones for 'b'" in rejected["utt000"]["detail"]
    assert "aligned phones" in rejected["utt001"]["detail"]


def test_voices_are_measured_once_and_again_for_another_corpus(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a run was killed before its first checkpoint and the folder is used for another."""
    other = write_toy_corpus(tmp_path / "corpus", [1.3, 1.4])
    encode_corpus(load_cuts(other), toy_tokenizer(12), tmp_path / "other", shard_size=4)
    measure, times = TrainedVoices.measure, [0]

    def counted(*given: Any) -> TrainedVoices:
        times[0] += 1
        return measure(*given)

    monkeypatch.setattr(TrainedVoices, "measure", counted)
    first = config(stores, tmp_path).data
    found = []
    for data in (first, first, replace(first, store=str(tmp_path / "other"))):
        keep_voices(data, tmp_path)
        found.append(TrainedVoices.load(tmp_path))
    assert times == [2] and found[0].key == found[1].key != found[2].key
    assert not np.array_equal(found[0].embeddings["s0"], found[2].embeddings["s0"])
    assert TrainedVoices.load(tts_folder("mini")).embeddings.keys() == {"kathleen"}


def test_speaker_embeddings_are_measured(stores: Path, tmp_path: Path) -> None:
    model = Synthesizer.load(train_tts(config(stores, tmp_path, steps=2, model=replace(SHAPE, speaker="embedding"))))
    assert model.speakers.width > 0 and model.speakers.model
    voices = np.eye(2, model.speakers.width, dtype=np.float32) * 30
    one, other = (model.tokens(["a i u"], Decoding(), seed=0, speaker=voice)[0] for voice in voices)
    assert isinstance(one, TokenSequence) and isinstance(other, TokenSequence)
    assert len(one) != len(other) or not np.array_equal(one.codes, other.codes)


def test_folders_of_others_are_refused(stores: Path, tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match="not a text-to-speech folder"):
        Synthesizer.load(tmp_path)
    out = train_tts(config(stores, tmp_path / "out", steps=2))
    described = read_json(out / "text.json")
    write_json(out / "text.json", described | {"language": "de"})
    with pytest.raises(CorruptFile, match="not the text front end"):
        Synthesizer.load(out)
    other = toy_tokenizer(20)
    encode_corpus(load_cuts(stores / "corpus"), other, tmp_path / "other", shard_size=8)
    whole = config(stores, tmp_path / "mixed")
    with pytest.raises(TokenizerMismatch, match="tokenizer"):
        train_tts(replace(whole, data=replace(whole.data, valid=str(tmp_path / "other"))))
    with pytest.raises(ConfigError, match="seed must be at least 0"):
        replace(whole, seed=-1)
    with pytest.raises(ConfigError, match="needs phones"):
        replace(whole.data, text=TextConfig(kind="characters", language="en-us"))


def test_worked_examples_of_durations() -> None:
    """As the docstrings have them."""
    ids = np.array([1, 7, 2, 8, 9, 3])
    path = np.array([0, 7, 7, 0, 0, 8, 0, 0, 9, 0])
    assert spread(path, ids, frozenset([1, 2, 3])).tolist() == [1, 2, 2, 2, 2, 1]
    assert fill_gaps(np.array([[1, 3], [5, 6]]), [1, 2], 4, 10).tolist() == [1, 3, 2, 4]
