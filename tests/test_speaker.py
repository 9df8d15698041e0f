"""Speaker embeddings: the light one, its fitting, and an ECAPA-TDNN from a local folder."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.toy_corpus import toy_speech, write_toy_corpus
from voxtok.manifests.audio import read_audio
from voxtok.manifests.cuts import load_cuts
from voxtok.runtime.errors import BadAudio, ConfigError, CorruptFile
from voxtok.vocoder.speaker import StatisticsSpeaker, load_speaker_model, mean_embedding, similarity, speech_statistics
from voxtok.vocoder.speaker_fit import discriminant, main


def test_mini_gives_unit_vectors_that_loudness_hardly_changes() -> None:
    model = load_speaker_model("mini")
    samples, _ = toy_speech(3.0, seed=1)
    one = model.embed(samples)
    assert one.shape == (model.width,) and one.dtype == np.float32
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    assert similarity(one, model.embed(samples * 0.2)) > 0.98
    for bad in (samples[:1000], np.zeros(32000, dtype=np.float32)):
        with pytest.raises(ConfigError, match="at least"):
            model.embed(bad)


def test_a_speaker_is_measured_on_what_can_be(tmp_path: Path) -> None:
    model = load_speaker_model("mini")
    cuts = list(load_cuts(write_toy_corpus(tmp_path, [0.2, 1.0, 1.5, 2.0])))
    gone = BadAudio("gone", "unreadable", "it is")
    one, two, three = (model.embed(read_audio(cut, 16000)) for cut in cuts[1:])
    for most, expected in ((None, one + two + three), (2, one + two), (1, one)):
        found = mean_embedding(model, [gone, *cuts], most)
        assert similarity(found, expected) == pytest.approx(1, abs=1e-6)
        assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)
    for nothing, why in (([], "there is none"), ([gone], "gone: unreadable"), (cuts[:1], "utt000: a speaker is")):
        with pytest.raises(ConfigError, match=why):
            mean_embedding(model, nothing)


def test_real_voices_are_told_apart(voxtok_data: Path) -> None:
    """Speakers that were in no fit: halves of one utterance are nearer to each other than to another speaker's."""
    model = load_speaker_model("mini")
    first: dict[str, list[np.ndarray]] = {}
    for cut in load_cuts(voxtok_data / "vctk14"):
        first.setdefault(cut.supervisions[0].speaker, []).append(model.embed(read_audio(cut, 16000)))
    pairs = [pieces for pieces in first.values() if len(pieces) > 1]
    nearest = [
        max(range(len(pairs)), key=lambda other, piece=pieces[0]: similarity(piece, pairs[other][1]))  # type: ignore[misc]
        for pieces in pairs
    ]
    assert np.mean([found == index for index, found in enumerate(nearest)]) > 0.6


def test_the_discriminant_finds_the_direction_that_speakers_differ_in() -> None:
    """Noise is a hundred times stronger in the second dimension; the speakers differ in the first alone."""
    rng = np.random.default_rng(0)
    pieces = rng.normal([0.0, 0.0], [0.1, 10.0], (3, 20, 2)) + np.array([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])[:, None]
    speakers = [list(one) for one in pieces.astype(np.float32)]
    model = discriminant(speakers, width=1, shrink=0.01)
    assert abs(model.projection[0, 0]) > 50 * abs(model.projection[1, 0])
    with pytest.raises(ConfigError, match="3 speakers"):
        discriminant(speakers, width=3, shrink=0.01)


def test_fitting_from_a_corpus_and_folders(tmp_path: Path) -> None:
    cuts = write_toy_corpus(tmp_path / "corpus", [4.0] * 4, speakers=2)
    words = ["--cuts", str(cuts), "--out", str(tmp_path / "model"), "--width", "1", "--piece-s", "1"]
    assert main(words) == 0
    model = load_speaker_model(str(tmp_path / "model"))
    assert isinstance(model, StatisticsSpeaker) and model.width == 1
    assert model.fingerprint != load_speaker_model("mini").fingerprint
    (tmp_path / "model" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CorruptFile, match="cannot be read"):
        load_speaker_model(str(tmp_path / "model"))
    with pytest.raises(ConfigError, match="no speaker model"):
        load_speaker_model(str(tmp_path / "nothing"))


def test_statistics_worked() -> None:
    """24 means, 24 deviations, and mean and deviation of log F0."""
    found = speech_statistics(toy_speech(2.0, seed=3)[0])
    assert found.shape == (50,) and np.isfinite(found).all()
    assert 60 < np.exp(found[48]) < 500


@pytest.mark.filterwarnings("ignore")  # SpeechBrain's own deprecations
def test_ecapa_from_its_weights(tmp_path: Path) -> None:
    pytest.importorskip("speechbrain")
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    torch.manual_seed(0)
    net = ECAPA_TDNN(80, channels=[16] * 4 + [48], attention_channels=8, lin_neurons=12).eval()
    torch.save(net.state_dict(), tmp_path / "embedding_model.ckpt")
    model = load_speaker_model(str(tmp_path), device="cpu")
    samples, _ = toy_speech(1.0, seed=1)
    assert model.width == 12
    assert np.linalg.norm(model.embed(samples)) == pytest.approx(1, abs=1e-5)
    torch.save({"other": torch.zeros(1)}, tmp_path / "embedding_model.ckpt")
    with pytest.raises(CorruptFile, match="no ECAPA"):
        load_speaker_model(str(tmp_path), device="cpu")
