"""Prematched frames: every utterance rebuilt from the other utterances of its speaker, and from nothing else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from lhotse import CutSet

from tests import reference_matching as reference
from tests.toy_corpus import RATE, write_toy_corpus
from tests.toy_tokenizer import tree
from voxtok.manifests.audio import read_audio
from voxtok.manifests.cuts import load_cuts
from voxtok.runtime.commands import main
from voxtok.runtime.errors import BadAudio, ConfigError
from voxtok.runtime.files import read_jsonl
from voxtok.vocoder.features import FeatureConfig, Features
from voxtok.vocoder.frame_store import FrameStore
from voxtok.vocoder.prematch import PrematchConfig, _pool_members, prematch, prematched

TINY = (
    "--hop_samples 320 --model.width 16 --model.istft.width 16 --model.istft.coarse_blocks 1 "
    "--model.istft.fine_blocks 1 --segments.batch_size 2 --segments.segment_frames 16 --losses.resolutions [256] "
    "--train.steps 2 --train.adversarial_from 2 --train.warmup_steps 1 --train.heldout 1 --device cpu"
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Utterances 0, 2 and 4 are by s0, 1 and 3 by s1."""
    return write_toy_corpus(tmp_path_factory.mktemp("corpus"), [0.5, 0.6, 0.7, 0.5, 0.4])


def config(corpus: Path, out: Path, **options: object) -> PrematchConfig:
    settings = {"upstream": "mfcc", "layer": 0, "normalization": "none", "device": "cpu", "cuts": str(corpus)}
    return PrematchConfig(out=str(out), **{**settings, **options})  # type: ignore[arg-type]


def test_frames_are_means_of_the_speakers_other_utterances(corpus: Path, tmp_path: Path) -> None:
    store = prematch(config(corpus, tmp_path / "out", k=3))
    features = Features.open(FeatureConfig(upstream="mfcc", layer=0, normalization="none"), device="cpu")
    own = {cut.id: features.of_samples(read_audio(cut, RATE), None) for cut in load_cuts(corpus)}
    speakers = {cut.id: cut.supervisions[0].speaker for cut in load_cuts(corpus)}
    found = dict((cut.id, frames) for cut, frames in store)
    assert sorted(found) == sorted(own)
    for name, frames in found.items():
        others = [own[other] for other in own if other != name and speakers[other] == speakers[name]]
        pool = torch.cat(others).tolist()
        for query, made in list(zip(own[name].tolist(), frames.tolist(), strict=True))[::7]:
            assert made == pytest.approx(reference.matched(query, pool, 3, by_distance=False), rel=2e-3, abs=2e-3)
    assert store.info.features == features.fingerprint and store.info.hop_samples == 160


def test_a_finished_store_is_left_alone_and_other_options_redo_it(corpus: Path, tmp_path: Path) -> None:
    prematch(config(corpus, tmp_path / "out"))
    when = (tmp_path / "out" / "frames.npy").stat().st_mtime_ns
    prematch(config(corpus, tmp_path / "out", max_mb=1.0))
    assert (tmp_path / "out" / "frames.npy").stat().st_mtime_ns == when
    prematch(config(corpus, tmp_path / "out", weighting="distance"))
    prematch(config(corpus, tmp_path / "fresh", weighting="distance"))
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_a_bounded_pool_takes_some_utterances_and_rebuilds_all(corpus: Path, tmp_path: Path) -> None:
    store = prematch(config(corpus, tmp_path / "out", pool_minutes=0.01))
    assert len(list(store)) == 5 and np.isfinite(store.frames).all()


def test_a_speakers_only_utterance_is_listed_or_kept(corpus: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    CutSet.from_cuts(list(load_cuts(corpus))[:4:2] + list(load_cuts(corpus))[1:2]).to_file(few)
    store = prematch(config(few, tmp_path / "out"))
    assert [cut.id for cut, _ in store] == ["utt000", "utt002"]
    (row,) = read_jsonl(tmp_path / "out" / "rejected.jsonl")
    assert row["id"] == "utt001" and "speaker s1 has no other utterance" in row["detail"]
    with pytest.raises(BadAudio, match="no other utterance"):
        prematch(config(few, tmp_path / "strict", strict=True))
    kept = {cut.id: frames for cut, frames in prematch(config(few, tmp_path / "kept", keep_alone=True))}
    features = Features.open(FeatureConfig(upstream="mfcc", layer=0, normalization="none"), device="cpu")
    (cut,) = [cut for cut in load_cuts(few) if cut.id == "utt001"]
    assert np.array_equal(kept["utt001"], features.of_samples(read_audio(cut, RATE), None).half().numpy())


def test_utterances_whose_pool_cannot_be_read_are_listed(corpus: Path, tmp_path: Path) -> None:
    """Of the three utterances of s0, two are the pool."""
    cuts = list(load_cuts(corpus))[::2]
    settings = config(corpus, tmp_path / "out", pool_minutes=0.001)
    features = Features.open(settings.features, device="cpu")
    pooled = _pool_members(cuts, settings)
    for i in pooled:
        cuts[i].recording.sources[0].source = str(tmp_path / "gone.wav")
    (left,) = {cut.id for i, cut in enumerate(cuts) if i not in pooled}
    made = {cut.id: found for cut, found in prematched(cuts, "s0", features, settings)}
    assert isinstance(made[left], BadAudio) and "no other utterance" in str(made[left])
    kept = {cut.id: found for cut, found in prematched(cuts, "s0", features, replace(settings, keep_alone=True))}
    assert isinstance(kept[left], torch.Tensor)


def test_impossible_input_is_named(corpus: Path, tmp_path: Path) -> None:
    nameless = tmp_path / "nameless.jsonl"
    CutSet.from_cuts([cut.drop_supervisions() for cut in load_cuts(corpus)]).to_file(nameless)
    with pytest.raises(ConfigError, match="utt000 has 0 speakers"):
        prematch(config(nameless, tmp_path / "out"))
    with pytest.raises(ConfigError, match="--k must be"):
        config(corpus, tmp_path / "out", k=0)


def test_the_command(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--cuts", str(corpus), "--upstream", "mfcc", "--layer", "0", "--normalization", "none"]
    assert main(["prematch", *words, "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert f"{len(FrameStore.open(tmp_path / 'out').frames)} frames" in capsys.readouterr().out


def test_a_vocoder_learns_from_prematched_frames_and_converts(corpus: Path, tmp_path: Path) -> None:
    """Kathleen's shape of vocoder, smaller, over frames of the installed SSL model; then a conversion with it."""
    features = ["--upstream", "mini", "--layer", "1", "--normalization", "none", "--device", "cpu"]
    assert main(["prematch", "--cuts", str(corpus), *features, "--out", str(tmp_path / "frames")]) == 0
    trained = ["train-vocoder", "--frames", str(tmp_path / "frames"), "--out", str(tmp_path / "vocoder")]
    assert main([*trained, *TINY.split()]) == 0
    source = str(corpus.parent / "audio" / "utt000.wav")
    reference = [
        "--reference",
        str(corpus.parent / "audio" / "utt001.wav"),
        "--vocoder",
        str(tmp_path / "vocoder/model"),
    ]
    out = tmp_path / "converted.wav"
    assert main(["convert", "--source", source, *reference, *features, "--out", str(out)]) == 0
    assert sf.info(out).frames == 24 * 320  # of half a second
