"""Vocoders: folders, refusals, and three ways to one waveform: alone, in a batch, in chunks."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_vocoder import feature_facts, save_tiny_feature_vocoder, tiny_config, tiny_vocoder, token_facts
from voxtok.manifests.codebook import kmeans_codebook
from voxtok.manifests.tokens import TokenSequence
from voxtok.runtime.errors import ConfigError, CorruptFile, OutOfMemory, TokenizerMismatch
from voxtok.runtime.files import read_json, write_json
from voxtok.vocoder.inputs import Frames
from voxtok.vocoder.model import Synthesis, VocoderModel
from voxtok.vocoder.vocoder import Samples, Vocoder

KINDS = ["harmonic", "phases", "hifigan"]


def tokens(frames: int, seed: int = 0, streams: int = 1, fingerprint: str = "t" * 64) -> TokenSequence:
    codes = np.random.default_rng(seed).integers(0, 10, (frames, streams)).astype(np.uint8)
    return TokenSequence(codes, 50.0, fingerprint)


def made(kind: str, streams: int = 1, **changes: object) -> Vocoder:
    if kind == "hifigan":
        pytest.importorskip("speechbrain")
    return tiny_vocoder(tiny_config(kind, **changes), token_facts((10,) * streams))  # type: ignore[arg-type]


def assert_same_sound(found: Samples, expected: Samples, kind: str) -> None:
    """Equal to rounding; of pulses, a pitch that is rounded otherwise moves the phase of all that follows a little."""
    peak = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, atol=(1e-3 if kind == "harmonic" else 1e-5) * peak)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_gives_what_each_gives_alone(kind: str) -> None:
    vocoder = made(kind)
    batch = [tokens(30, 1), tokens(7, 2), tokens(19, 3)]
    together = vocoder.from_tokens_batch(batch, speakers=[None] * 3)
    for sequence, samples in zip(batch, together, strict=True):
        alone = vocoder.from_tokens(sequence)
        assert alone.shape == samples.shape == (len(sequence) * 320,)
        assert np.abs(alone).max() > 1e-4
        assert_same_sound(samples, alone, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pushes", [(120,), (40, 1, 60, 19), (1,) * 120])
def test_chunks_give_what_the_whole_gives(kind: str, pushes: tuple[int, ...]) -> None:
    vocoder = made(kind)
    sequence = tokens(120)
    whole = vocoder.from_tokens(sequence)
    stream = vocoder.stream(chunk_frames=10)
    parts, at = [], 0
    for size in pushes:
        codes = sequence.codes[at : at + size]
        parts.append(stream.push(TokenSequence(codes, 50.0, sequence.fingerprint)))
        at += size
    assert sum(map(len, parts)) > 0  # some of it came before the end
    streamed = np.concatenate([*parts, stream.finish()])
    assert streamed.shape == whole.shape
    assert_same_sound(streamed, whole, kind)
    with pytest.raises(ConfigError, match="finished"):
        stream.push(sequence)


def test_features_stream_too_and_equal_the_tokens_they_stand_for() -> None:
    centroids = np.random.default_rng(0).normal(size=(10, 8)).astype(np.float32)
    facts = feature_facts(8, "f" * 64, tokenizer="t" * 64, vocab_sizes=(10,))
    vocoder = Vocoder(tiny_vocoder(tiny_config("harmonic"), facts).model, kmeans_codebook(centroids))
    sequence = tokens(50)
    frames = torch.from_numpy(centroids[sequence.codes[:, 0]])
    whole = vocoder.from_features(frames)
    np.testing.assert_array_equal(vocoder.from_tokens(sequence), whole)
    np.testing.assert_allclose(vocoder.from_tokens(sequence.dedup()), whole)
    stream = vocoder.stream()
    streamed = np.concatenate([stream.push(frames[:30]), stream.push(sequence_tail(sequence, 30)), stream.finish()])
    assert_same_sound(streamed, whole, "harmonic")


@pytest.mark.parametrize("kind", KINDS)
def test_long_recordings_are_computed_in_chunks(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pitch that is given is that of the whole, which is then computed at once."""
    vocoder = made(kind)
    batch = [tokens(30, 1), tokens(250, 2), tokens(7, 3)]
    whole = vocoder.from_tokens_batch(batch, speakers=[None] * 3)
    pitch = np.full(250, 120.0) if kind == "harmonic" else None
    follows = vocoder.from_tokens(batch[1], f0_hz=pitch)
    sizes: list[int] = []
    vocoder.model.register_forward_pre_hook(lambda _, given: sizes.append(given[0].content.shape[1]))
    monkeypatch.setattr("voxtok.vocoder.vocoder.MOST_FRAMES", 100)
    for found, expected in zip(vocoder.from_tokens_batch(batch, speakers=[None] * 3), whole, strict=True):
        assert found.shape == expected.shape
        assert_same_sound(found, expected, kind)
    assert max(sizes) <= 100 + 2 * vocoder.model.context_frames < 250 and len(sizes) >= 4
    if pitch is not None:
        np.testing.assert_array_equal(vocoder.from_tokens(batch[1], f0_hz=pitch), follows)


def test_a_batch_that_memory_does_not_hold_is_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    vocoder = made("phases")
    batch = [tokens(20, seed) for seed in range(3)]
    whole = vocoder.from_tokens_batch(batch, speakers=[None] * 3)
    model, held = VocoderModel.forward, 1

    def small(self: VocoderModel, frames: Frames) -> Synthesis:
        if len(frames.content) > held:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return model(self, frames)

    monkeypatch.setattr(VocoderModel, "forward", small)
    for found, expected in zip(vocoder.from_tokens_batch(batch, speakers=[None] * 3), whole, strict=True):
        assert_same_sound(found, expected, "phases")
    held = 0
    with pytest.raises(OutOfMemory, match="one utterance alone"):
        vocoder.from_tokens(batch[0])


def sequence_tail(sequence: TokenSequence, start: int) -> TokenSequence:
    return TokenSequence(sequence.codes[start:], 50.0, sequence.fingerprint)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_gives_the_same_waveform(kind: str, tmp_path: Path) -> None:
    vocoder = made(kind, streams=2)
    vocoder.save(tmp_path)
    loaded = Vocoder.load(tmp_path, device="cpu")
    assert loaded.facts == vocoder.facts and loaded.model.config == vocoder.model.config
    sequence = tokens(12, streams=2)
    np.testing.assert_array_equal(loaded.from_tokens(sequence), vocoder.from_tokens(sequence))


def test_tokens_and_features_of_others_are_refused(tmp_path: Path) -> None:
    vocoder = made("harmonic")
    with pytest.raises(TokenizerMismatch, match=r"xxxxxxxxxxxx.*tttttttttttt"):
        vocoder.from_tokens(tokens(5, fingerprint="x" * 64))
    with pytest.raises(ConfigError, match="takes tokens"):
        vocoder.from_features(torch.zeros(5, 8))
    features = Vocoder.load(save_tiny_feature_vocoder(tmp_path, features="f" * 64), device="cpu")
    with pytest.raises(ConfigError, match="takes features"):
        features.from_tokens(tokens(5))
    with pytest.raises(ConfigError, match=r"\(N, 8\)"):
        features.from_features(torch.zeros(5, 9))
    with pytest.raises(TokenizerMismatch, match="layer"):
        features.check_features("g" * 64)
    with pytest.raises(ConfigError, match="not in a codebook"):
        vocoder.from_tokens(TokenSequence(np.array([[10]], dtype=np.uint8), 50.0, "t" * 64))


def test_speakers_by_name_and_by_embedding() -> None:
    facts = token_facts(speakers=("anna", "bert"))
    table = tiny_vocoder(tiny_config("harmonic", "table"), facts)
    anna, bert = (table.from_tokens(tokens(9), speaker=name) for name in facts.speakers)
    assert not np.allclose(anna, bert)
    with pytest.raises(ConfigError, match="carl"):
        table.from_tokens(tokens(9), speaker="carl")
    measured = tiny_vocoder(tiny_config("harmonic", "embedding"), token_facts(speaker_width=3))
    one, other = (measured.from_tokens(tokens(9), speaker=np.full(3, value)) for value in (0.0, 1.0))
    assert not np.allclose(one, other)
    with pytest.raises(ConfigError, match="embedding of 3 numbers"):
        measured.from_tokens(tokens(9))


@pytest.mark.parametrize("joined", ["sum", "attention"])
def test_any_subset_of_streams(joined: str) -> None:
    """Streams that are left out change nothing; those that are kept do."""
    vocoder = tiny_vocoder(tiny_config("harmonic", streams=joined), token_facts((10,) * 3))
    sequence = tokens(10, streams=3)
    other = TokenSequence(sequence.codes.copy(), 50.0, sequence.fingerprint)
    other.codes[:, 1] = (other.codes[:, 1] + 1) % 10
    kept = vocoder.from_tokens(sequence, streams=(0, 2))
    np.testing.assert_allclose(vocoder.from_tokens(other, streams=(0, 2)), kept)
    assert not np.allclose(vocoder.from_tokens(other), vocoder.from_tokens(sequence))
    with pytest.raises(ConfigError, match=r"0 \.\. 2"):
        vocoder.from_tokens(sequence, streams=(3,))


def test_the_pitch_can_be_given() -> None:
    vocoder = made("harmonic")
    low, high = (vocoder.from_tokens(tokens(20), f0_hz=np.full(20, value)) for value in (100.0, 200.0))
    assert not np.allclose(low, high)
    with pytest.raises(ConfigError, match="one number a frame"):
        vocoder.from_tokens(tokens(20), f0_hz=np.full(19, 100.0))
    asks = tiny_vocoder(tiny_config("phases", f0_bins=8), token_facts())
    with pytest.raises(ConfigError, match="pitch as an input"):
        asks.from_tokens(tokens(20))
    rising = asks.from_tokens(tokens(20), f0_hz=np.linspace(100, 200, 20))
    assert not np.allclose(rising, asks.from_tokens(tokens(20), f0_hz=np.linspace(200, 100, 20)))


def test_tokens_without_durations_get_predicted_ones() -> None:
    vocoder = made("harmonic", durations=True)
    assert vocoder.model.durations is not None
    with torch.no_grad():
        vocoder.model.durations.out.weight.zero_()
        vocoder.model.durations.out.bias.fill_(float(np.log(3.0)))
    assert len(vocoder.from_tokens(tokens(10), predict_durations=True)) == 30 * 320
    assert len(vocoder.from_tokens(tokens(10).dedup())) == 10 * 320
    with pytest.raises(ConfigError, match="does not predict"):
        made("harmonic").from_tokens(tokens(10), predict_durations=True)


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match=r"no vocoder\.json"):
        Vocoder.load(tmp_path)
    save_tiny_feature_vocoder(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:-8])
    with pytest.raises(CorruptFile, match=r"model\.safetensors"):
        Vocoder.load(tmp_path)
    described = read_json(tmp_path / "vocoder.json")
    del described["model"]["istft"]["bands"]
    write_json(tmp_path / "vocoder.json", described)
    with pytest.raises(CorruptFile, match="bands"):
        Vocoder.load(tmp_path)
