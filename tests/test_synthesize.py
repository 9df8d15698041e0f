"""Token stores and audio files to waveforms: resumed, refused, through tokens and through features."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from tests.tiny_vocoder import ISTFT, tiny_config, tiny_vocoder
from tests.toy_corpus import RATE, toy_speech, write_toy_corpus
from tests.toy_tokenizer import toy_tokenizer, tree
from voxtok.manifests.audio import read_audio
from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.store import TokenStore
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import BadAudio, ConfigError, TokenizerMismatch
from voxtok.runtime.files import read_jsonl
from voxtok.tokenize.encode import encode_corpus
from voxtok.tokenize.tokenizer import Tokenizer
from voxtok.vocoder.features import features_fingerprint
from voxtok.vocoder.model_config import Facts, SpeakerInput
from voxtok.vocoder.resynthesize import main as resynthesize_main
from voxtok.vocoder.resynthesize import resynthesize
from voxtok.vocoder.speaker import load_speaker_model
from voxtok.vocoder.synthesize import SynthesizeConfig, main, synthesize
from voxtok.vocoder.vocoder import Vocoder
from voxtok.vocoder.voices import Voices


def vocoder_for(tokenizer: Tokenizer, speaker: SpeakerInput = "none", **changes: object) -> Vocoder:
    """Takes the tokenizer's tokens and MFCC."""
    measuring = load_speaker_model("mini")
    facts = Facts(
        sampling_rate=RATE,
        hop_samples=160,
        inputs="features",
        vocab_sizes=tokenizer.vocab_sizes,
        feature_width=39,
        tokenizer=tokenizer.fingerprint,
        features=features_fingerprint(tokenizer.upstream, tokenizer.config.layers),
        speakers=("s0", "s1") if speaker == "table" else (),
        speaker_width=measuring.width if speaker == "embedding" else 0,
        speaker_model=measuring.fingerprint if speaker == "embedding" else None,
    )
    config = tiny_config("harmonic", speaker, istft=ISTFT, **changes)
    return Vocoder(tiny_vocoder(config, facts).model, tokenizer.codebook)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of which one utterance is too short to measure its speaker, its tokenizer, tokens and vocoders."""
    folder = tmp_path_factory.mktemp("speech")
    write_toy_corpus(folder, [1.0, 0.3, 0.8])
    tokenizer = toy_tokenizer()
    tokenizer.save(folder / "tokenizer")
    encode_corpus(load_cuts(folder / "cuts.jsonl.gz"), tokenizer, folder / "store", shard_size=2)
    kinds: list[SpeakerInput] = ["none", "table", "embedding"]
    for kind in kinds:
        vocoder_for(tokenizer, kind).save(folder / kind)
    return folder


def config(folder: Path, kind: str, out: Path, **changes: object) -> SynthesizeConfig:
    known = {"store": str(folder / "store"), "vocoder": str(folder / kind), "out": str(out), "device": "cpu"}
    return SynthesizeConfig(**{**known, **changes})  # type: ignore[arg-type]


def test_a_store_becomes_speech_with_its_manifest(folder: Path, tmp_path: Path) -> None:
    assert synthesize(config(folder, "none", tmp_path)) == {"utterances": 3, "rejected": 0}
    vocoder = Vocoder.load(folder / "none", device="cpu")
    assert synthesize(config(folder, "none", tmp_path / "batches", batch_size=2)) == {"utterances": 3, "rejected": 0}
    made = {cut.id: cut for cut in load_cuts(tmp_path)}
    for cut, tokens in TokenStore.open(folder / "store"):
        samples = read_audio(made[cut.id], RATE)
        np.testing.assert_allclose(samples, np.clip(vocoder.from_tokens(tokens), -1, 1), atol=1e-4)
        batched, _ = sf.read(tmp_path / "batches" / "audio" / f"{cut.id}.wav", dtype="float32")
        np.testing.assert_allclose(batched, samples, atol=2e-3)
        assert made[cut.id].supervisions[0].text == cut.supervisions[0].text


def test_a_killed_job_goes_on_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    synthesize(config(folder, "none", tmp_path / "whole"))
    ranks = [Ranks(rank, 2) for rank in range(2)]
    assert synthesize(config(folder, "none", tmp_path / "parts"), ranks[1]) is None
    assert synthesize(config(folder, "none", tmp_path / "parts"), ranks[0]) == {
        "utterances": 3,
        "rejected": 0,
    }
    assert tree(tmp_path / "whole") == tree(tmp_path / "parts")
    path = tmp_path / "whole" / "audio" / "utt000.wav"
    made = path.stat().st_mtime_ns
    (tmp_path / "whole" / "audio" / "utt002.wav").unlink()
    synthesize(config(folder, "none", tmp_path / "whole"))
    assert path.stat().st_mtime_ns == made  # only what was missing is made again
    assert tree(tmp_path / "whole" / "audio") == tree(tmp_path / "parts" / "audio")


def test_speakers_of_the_source_by_name_and_by_recording(folder: Path, tmp_path: Path) -> None:
    synthesize(config(folder, "table", tmp_path / "own"))
    synthesize(config(folder, "table", tmp_path / "s1", speaker="s1"))
    own, other = (tree(tmp_path / name / "audio") for name in ("own", "s1"))
    assert own["utt000.wav"] != other["utt000.wav"] and own["utt001.wav"] == other["utt001.wav"]
    assert synthesize(config(folder, "embedding", tmp_path / "measured")) == {"utterances": 2, "rejected": 1}
    rejected = list(read_jsonl(tmp_path / "measured" / "rejected.jsonl"))
    assert [(row["id"], row["reason"]) for row in rejected] == [("utt001", "too short")]
    with pytest.raises(BadAudio, match="too short"):
        synthesize(config(folder, "embedding", tmp_path / "strict", strict=True))
    reference = str(folder / "audio" / "utt000.wav")
    assert synthesize(config(folder, "embedding", tmp_path / "told", speaker=reference)) == {
        "utterances": 3,
        "rejected": 0,
    }
    of_folder = config(folder, "embedding", tmp_path / "folder", speaker=str(folder / "audio"))
    assert synthesize(of_folder) == {"utterances": 3, "rejected": 0}  # though one file of it is too short
    with pytest.raises(ConfigError, match="--speaker"):
        synthesize(config(folder, "embedding", tmp_path / "x", speaker="nobody"))


def test_tokens_of_another_tokenizer_are_refused(folder: Path, tmp_path: Path) -> None:
    vocoder_for(toy_tokenizer(vocab_size=21)).save(tmp_path / "vocoder")
    with pytest.raises(TokenizerMismatch, match="encode the speech again"):
        synthesize(config(folder, "none", tmp_path / "out", vocoder=str(tmp_path / "vocoder")))
    words = ["--store", str(folder / "store"), "--vocoder", str(folder / "none"), "--out", str(tmp_path / "out")]
    assert main([*words, "--device", "cpu"]) == 0


def test_audio_through_tokens_and_back(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples, _ = toy_speech(1.0, seed=5)
    sf.write(tmp_path / "good.wav", samples, RATE, subtype="FLOAT")
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    words = ["--tokenizer", str(folder / "tokenizer"), "--vocoder", str(folder / "embedding"), "--device", "cpu"]
    files = [str(tmp_path / "good.wav"), str(tmp_path / "bad.wav")]
    assert resynthesize_main([*files, *words, "--out", str(tmp_path / "out")]) == 1
    assert "bad.wav" in capsys.readouterr().err
    made, rate = sf.read(tmp_path / "out" / "good.wav", dtype="float32")
    tokenizer = Tokenizer.load(folder / "tokenizer", device="cpu")
    voices = Voices(Vocoder.load(folder / "embedding", device="cpu"), "source", "mini")
    expected = resynthesize(samples, RATE, tokenizer, voices)
    assert rate == RATE
    np.testing.assert_allclose(made, np.clip(expected, -1, 1), atol=1e-4)
    assert not np.allclose(resynthesize(samples, RATE, tokenizer, voices, through="features"), expected)
    with pytest.raises(ConfigError, match="one name"):
        resynthesize_main(["a/x.wav", "b/x.wav", *words, "--out", str(tmp_path)])
    with pytest.raises(ConfigError, match="needs all streams"):
        resynthesize(samples, RATE, tokenizer, voices, streams=[0])


def test_features_alone_need_no_vocoder_of_tokens(folder: Path, tmp_path: Path) -> None:
    known = vocoder_for(Tokenizer.load(folder / "tokenizer", device="cpu")).facts
    facts = replace(known, tokenizer=None, vocab_sizes=())
    tiny_vocoder(tiny_config("harmonic", istft=ISTFT), facts).save(tmp_path / "features")
    words = [str(folder / "audio" / "utt000.wav"), "--tokenizer", str(folder / "tokenizer"), "--device", "cpu"]
    words += ["--vocoder", str(tmp_path / "features"), "--out", str(tmp_path / "out")]
    assert resynthesize_main([*words, "--through", "features"]) == 0
    assert sf.info(tmp_path / "out" / "utt000.wav").duration == pytest.approx(1.0, abs=0.05)
    with pytest.raises(ConfigError, match="takes features, not tokens"):
        resynthesize_main(words)


def test_another_speaker_model_than_the_vocoders_is_refused(folder: Path, tmp_path: Path) -> None:
    model = load_speaker_model("mini")
    from voxtok.vocoder.speaker import StatisticsSpeaker

    assert isinstance(model, StatisticsSpeaker)
    StatisticsSpeaker(model.mean + 1, model.projection).save(tmp_path / "other")
    voices = Voices(Vocoder.load(folder / "embedding", device="cpu"), "source", str(tmp_path / "other"))
    with pytest.raises(ConfigError, match="trained with"):
        voices.of_samples(toy_speech(1.0, seed=1)[0], RATE)
