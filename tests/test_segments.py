"""Training segments: the samples under their frames, the same on any number of ranks; and discriminators' losses."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.toy_corpus import write_toy_corpus
from voxtok.manifests.cuts import load_cuts
from voxtok.runtime.distributed import Ranks
from voxtok.vocoder.discriminators import (
    DiscriminatorConfig,
    Discriminators,
    discriminator_loss,
    feature_loss,
    generator_loss,
)
from voxtok.vocoder.losses import duration_term, mel_distance
from voxtok.vocoder.segments import Batch, SegmentConfig, _runs_of, batches
from voxtok.vocoder.speech import Speech, Utterance

HOP = 320


def speech(folder: Path) -> Speech:
    """Codes that count frames, and samples whose value tells theirs: sample t has t / 32768."""
    cuts = load_cuts(write_toy_corpus(folder, [1.0, 0.4]))
    utterances = []
    for cut, frames in zip(cuts, (49, 19), strict=True):
        codes = np.stack([np.arange(frames), np.arange(frames) + 100], axis=1).astype(np.uint8)
        samples = np.arange(frames * HOP, dtype=np.int16)
        f0_hz = np.arange(1, frames + 1, dtype=np.float32)
        utterances.append(Utterance(cut, 16000, samples, codes, None, f0_hz, "", None))
    return Speech(utterances, "identity", ("",))


def drawn(folder: Path, ranks: Ranks, begin: int = 0, count: int = 3, **changes: object) -> list[Batch]:
    config = SegmentConfig(**{"batch_size": 4, "segment_frames": 24, **changes})  # type: ignore[arg-type]
    recipes = batches(speech(folder), config, HOP, None, 7, ranks, begin)
    return [next(recipes)() for _ in range(count)]


def test_samples_lie_under_their_frames(tmp_path: Path) -> None:
    for batch in drawn(tmp_path, Ranks()):
        for row, length, samples in zip(batch.frames.content, batch.frames.lengths, batch.waveforms, strict=True):
            first = int(row[0, 0])
            expected = np.arange(first * HOP, (first + int(length)) * HOP) / 32768
            np.testing.assert_allclose(samples[: int(length) * HOP], expected, atol=1e-6)
            assert (samples[int(length) * HOP :] == 0).all()
            assert row[: int(length), 0].tolist() == list(range(first, first + int(length)))
        assert (
            batch.frames.f0_hz is not None
            and float(batch.frames.f0_hz[0, 0]) == float(batch.frames.content[0, 0, 0]) + 1
        )


def test_ranks_and_restarts_see_the_same_segments(tmp_path: Path) -> None:
    whole = drawn(tmp_path, Ranks())
    halves = [drawn(tmp_path, Ranks(rank, 2)) for rank in range(2)]
    for one, first, second in zip(whole, *halves, strict=True):
        both = torch.stack([first.frames.content, second.frames.content], dim=1).flatten(0, 1)
        torch.testing.assert_close(both, one.frames.content)
        assert first.share == second.share == 0.5 and first.place == one.place
    later = drawn(tmp_path, Ranks(), begin=2, count=1)[0]
    torch.testing.assert_close(later.waveforms, whole[2].waveforms)


def test_stream_dropout_keeps_at_least_one(tmp_path: Path) -> None:
    kept = torch.cat([batch.frames.streams for batch in drawn(tmp_path, Ranks(), count=20, stream_dropout=1.0)])  # type: ignore[misc]
    assert kept.any(dim=1).all() and not kept.all(dim=1).all()
    assert drawn(tmp_path, Ranks())[0].frames.streams is None


def test_runs_worked() -> None:
    """5 5 2 2 2 9: the ends are not seen, so only the middle run has a length."""
    codes, durations = _runs_of(np.array([[5], [5], [2], [2], [2], [9]]))
    assert codes[:, 0].tolist() == [5, 2, 9] and durations.tolist() == [0, 3, 0]
    logs = torch.log(torch.tensor([[1.0, 6.0, 1.0]]))
    assert duration_term(logs, torch.from_numpy(durations)[None]).item() == pytest.approx(np.log(2))


def test_least_squares_worked() -> None:
    """Scores 1 and 0.5 of real and 0.5 of synthetic speech: (0 + 0.25) / 2 + 0.25; the generator lacks 0.25."""
    real, fake = [torch.tensor([1.0, 0.5])], [torch.tensor([0.5])]
    assert discriminator_loss(real, fake).item() == pytest.approx(0.375)
    assert generator_loss(fake).item() == pytest.approx(0.25)
    assert feature_loss([[torch.zeros(2)]], [[torch.tensor([1.0, 3.0])]]).item() == pytest.approx(2.0)


@pytest.mark.parametrize("kind", ["resolutions", "hifigan"])
def test_every_discriminator_judges_and_passes_gradients_on(kind: str) -> None:
    if kind == "hifigan":
        pytest.importorskip("speechbrain")
    config = DiscriminatorConfig(kind=kind, periods=(2, 3), resolutions=(256,), channels=4)  # type: ignore[arg-type]
    waveforms = torch.randn(2, 4000, requires_grad=True)
    scores, activations = Discriminators(config)(waveforms)
    assert len(scores) == len(activations) == (3 if kind == "resolutions" else 8)
    generator_loss(scores).backward()
    assert waveforms.grad is not None and waveforms.grad.abs().sum() > 0


def test_mel_distance_is_zero_for_equal_and_log_2_for_half() -> None:
    real = torch.randn(2, 8000) * 0.1
    assert mel_distance(real, real, 16000, (512, 256)).item() == 0
    assert mel_distance(real / 2, real, 16000, (512, 256)).item() == pytest.approx(np.log(2), rel=0.02)
