"""Streams: the tokens of the whole recording, whatever the chunks, and no later than said."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny_models import save_tiny
from tests.toy_corpus import toy_speech
from tests.toy_tokenizer import toy_tokenizer
from voxtok.manifests.subwords import train_subwords
from voxtok.manifests.tokens import TokenSequence, concatenate
from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.load import load_upstream
from voxtok.tokenize.stream import OpenRun
from voxtok.tokenize.tokenizer import Tokenizer
from voxtok.tokenize.tokenizer_folder import TokenizerConfig
from voxtok.tokenize.windows import WindowConfig, window_sizes

RATE = 16000
WINDOW_SAMPLES = 197 * 160 + 400
"""Just 198 frames: a window of the toy tokenizer's 2 s."""
SPEECH = toy_speech(7.3, seed=3)[0]
Samples = npt.NDArray[np.float32]


def streamed(tokenizer: Tokenizer, samples: Samples, sizes: list[int]) -> TokenSequence:
    """Push chunks of these sizes, over and over, and finish."""
    stream = tokenizer.stream(sampling_rate=RATE)
    parts, start = [], 0
    while start < len(samples):
        for size in sizes:
            parts.append(stream.push(samples[start : start + size]))
            start += size
    return concatenate([*parts, stream.finish()])


def assert_equal(found: TokenSequence, wanted: TokenSequence) -> None:
    assert np.array_equal(found.codes, wanted.codes) and found.codes.dtype == wanted.codes.dtype
    assert (found.durations is None) == (wanted.durations is None)
    assert np.array_equal(found.spans(), wanted.spans())
    assert (found.fingerprint, found.frame_rate_hz) == (wanted.fingerprint, wanted.frame_rate_hz)


@pytest.fixture(scope="module")
def unnormalised(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tiny model with a layer-norm front end on waveforms as they are: nothing looks at a whole recording."""
    folder = save_tiny("wavlm-large", tmp_path_factory.mktemp("wavlm"), do_normalize=False)
    return toy_tokenizer(upstream=str(folder), layer=2)


@settings(deadline=None, max_examples=25)
@given(st.integers(400, len(SPEECH)), st.lists(st.integers(0, 40000), min_size=1, max_size=4), st.booleans())
def test_chunks_of_any_size_give_the_tokens_of_the_file(num_samples: int, sizes: list[int], dedup: bool) -> None:
    tokenizer = toy_tokenizer(dedup=dedup)
    sizes = [*sizes, 5000]
    assert_equal(streamed(tokenizer, SPEECH[:num_samples], sizes), tokenizer.encode(SPEECH[:num_samples], RATE))


@pytest.mark.parametrize("extra", [-161, -160, -1, 0, 1, 159, 160, 161, 400, 23840, 23999, 24000, 24001, 24160, 24161])
def test_ends_about_the_borders_of_windows(extra: int) -> None:
    """A window is 198 frames, a step 148: the plans change a frame after 2 s and each 1.48 s later."""
    tokenizer = toy_tokenizer()
    assert window_sizes(tokenizer.upstream, WindowConfig(window_s=2.0, overlap_s=0.5)) == (198, 25)
    samples = SPEECH[: WINDOW_SAMPLES + extra]
    for size in (160, 32000, 200000):
        assert_equal(streamed(tokenizer, samples, [size]), tokenizer.encode(samples, RATE))


@pytest.mark.parametrize("seconds", [0.4, 2.0, 2.1, 5.0])
def test_a_model_without_whole_file_normalisation_streams(seconds: float, unnormalised: Tokenizer) -> None:
    samples = SPEECH[: round(seconds * RATE)]
    for sizes in ([320], [7, 4001, 12000], [len(samples)]):
        assert_equal(streamed(unnormalised, samples, sizes), unnormalised.encode(samples, RATE))


def test_whisper_streams(tmp_path: Path) -> None:
    tokenizer = toy_tokenizer(upstream=str(save_tiny("whisper", tmp_path / "whisper")), layer=1)
    samples = SPEECH[: 5 * RATE]
    assert_equal(streamed(tokenizer, samples, [4000]), tokenizer.encode(samples, RATE))


@pytest.mark.parametrize(
    ("kind", "normalize"), [("hubert-base", False), ("wavlm-large", True), ("wav2vec2-bert", True)]
)
def test_what_normalises_over_the_recording_is_refused(kind: str, normalize: bool, tmp_path: Path) -> None:
    folder = save_tiny(kind, tmp_path / kind, do_normalize=normalize)
    with pytest.raises(ConfigError, match=r"normalises over the whole recording.*first frame depends on the last"):
        toy_tokenizer(upstream=str(folder), layer=1).stream(sampling_rate=RATE)


def test_the_mean_of_a_recording_is_not_streamed() -> None:
    with pytest.raises(ConfigError, match="mfcc-cmn normalises over the whole recording"):
        toy_tokenizer(upstream="mfcc-cmn").stream(sampling_rate=RATE)


@pytest.mark.parametrize("upstream", ["mfcc", "model"])
def test_latency_is_as_stated(upstream: str, unnormalised: Tokenizer) -> None:
    """Pushed hop by hop, no frame comes later than `latency_s` after its samples, and the first comes just then."""
    tokenizer = unnormalised if upstream == "model" else toy_tokenizer()
    model = tokenizer.upstream
    stream = tokenizer.stream(sampling_rate=RATE)
    waits: list[int] = []
    pushed = model.min_samples
    stream.push(SPEECH[:pushed])
    while pushed + model.hop_samples < len(SPEECH):
        tokens = stream.push(SPEECH[pushed : pushed + model.hop_samples])
        pushed += model.hop_samples
        for _ in range(len(tokens)):
            own_end = len(waits) * model.hop_samples + model.min_samples
            waits.append(pushed - own_end)
    assert max(waits) / RATE == stream.latency_s == waits[0] / RATE
    window, context = window_sizes(model, WindowConfig(window_s=2.0, overlap_s=0.5))
    later = [wait // model.hop_samples for wait in waits[window - context :]]
    assert max(later) == window - context and min(later) == context + 1


def test_memory_is_bounded_by_the_window() -> None:
    stream = toy_tokenizer().stream(sampling_rate=RATE)
    held = 0
    for start in range(0, 20 * len(SPEECH), 1600):
        stream.push(np.resize(SPEECH, 1600) * (start % 7))
        held = max(held, stream._frames._buffer.end - stream._frames._buffer._start)
    assert held <= 2 * 2.0 * RATE


def test_with_dedup_a_token_comes_when_its_run_ends() -> None:
    """5 5 | 5 2 | 2: nothing, then 5 of three frames, then 2 of two frames at the end."""
    run = OpenRun()

    def push(codes: list[int], end: bool = False) -> list[tuple[int, int]]:
        tokens = run.push(TokenSequence(np.array(codes, dtype=np.uint8).reshape(-1, 1), 50.0, "f"), end)
        assert tokens.durations is not None
        return list(zip(tokens.codes[:, 0].tolist(), tokens.durations.tolist(), strict=True))

    assert push([5, 5]) == [] and push([]) == []
    assert push([5, 2]) == [(5, 3)]
    assert push([2], end=True) == [(2, 2)]


def test_a_long_silence_is_one_token() -> None:
    run = OpenRun()
    silence = TokenSequence(np.zeros((200, 2), dtype=np.uint8), 50.0, "f")
    assert sum(len(run.push(silence, end=False)) for _ in range(400)) == 0
    tokens = run.push(silence, end=True)
    assert tokens.durations is not None and tokens.durations.tolist() == [401 * 200]


def test_stereo_chunks_are_averaged() -> None:
    tokenizer = toy_tokenizer()
    stereo = np.stack([SPEECH, SPEECH])
    stream = tokenizer.stream(sampling_rate=RATE)
    parts = [stream.push(stereo[:, :50000]), stream.push(stereo[:, 50000:]), stream.finish()]
    assert_equal(concatenate(parts), tokenizer.encode(stereo, RATE))


def test_misuse_is_a_named_error() -> None:
    tokenizer = toy_tokenizer()
    stream = tokenizer.stream(sampling_rate=RATE)
    for samples in (np.full(10, np.nan), np.zeros((1, 2, 3))):
        with pytest.raises(ConfigError):
            stream.push(samples)
    with pytest.raises(ConfigError, match="0 samples are too short"):
        stream.finish()
    for again in (stream.finish, lambda: stream.push(SPEECH)):
        with pytest.raises(ConfigError, match="finished"):
            again()
    with pytest.raises(ConfigError, match="48000 Hz must be resampled to 16000 Hz"):
        tokenizer.stream(sampling_rate=48000)
    config = tokenizer.config
    whole = TokenizerConfig(**{**vars(config), "windows": None})
    with pytest.raises(ConfigError, match="has none: fit one with window_s"):
        Tokenizer(whole, load_upstream("mfcc", device="cpu"), tokenizer.codebook).stream(sampling_rate=RATE)
    subwords = train_subwords([np.tile([1, 2], 20)], unit_vocab_size=20, vocab_size=21, kind="bpe")
    with pytest.raises(ConfigError, match=r"with_bpe\(None\)"):
        tokenizer.with_bpe(subwords).stream(sampling_rate=RATE)
