"""Neural codecs as tokenizers: their codes and their sound equal the models' own, whole or in pieces, in any batch."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny_codecs import (
    CODECS,
    HOPS,
    SAMPLING_RATES,
    STREAMS,
    babble,
    own_codes,
    own_decode,
    save_codec,
    tiny_codec,
)
from tests.toy_corpus import write_toy_corpus
from tests.toy_frames import gaussian_frames
from voxtok.manifests.codebook import Codebook
from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.store import TokenStore
from voxtok.runtime.errors import ConfigError, CorruptFile, TokenizerMismatch
from voxtok.tokenize.codec import Codec
from voxtok.tokenize.codec_quantizer import codec_codebook, open_codec
from voxtok.tokenize.encode import encode_corpus
from voxtok.tokenize.extract import ExtractConfig, extract, side_by_side
from voxtok.tokenize.import_codec import codec_tokenizer, decode_codec, main
from voxtok.tokenize.load import load_upstream
from voxtok.tokenize.tokenizer import Tokenizer
from voxtok.tokenize.windows import WindowConfig, extract_samples

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint folder of each codec."""
    return {family: save_codec(family, tmp_path_factory.mktemp(family)) for family in CODECS}


def codec(folder: Path) -> Codec:
    """Load as a user does."""
    upstream = load_upstream(str(folder), device="cpu")
    assert isinstance(upstream, Codec)
    return upstream


@pytest.mark.parametrize(
    ("family", "streams"), [("encodec", 2), ("encodec", 6), ("dac", 1), ("dac", 5), ("mimi", 1), ("mimi", 4)]
)
def test_codes_equal_the_models_own(family: str, streams: int, folders: dict[str, Path]) -> None:
    """For lengths on either side of whole frames; every stage uses several of its codewords."""
    tokenizer = codec_tokenizer(str(folders[family]), streams=streams, dedup=False, device="cpu")
    model, hop = tiny_codec(family), HOPS[family]
    assert tokenizer.vocab_sizes == (32,) * streams
    assert tokenizer.frame_rate_hz == SAMPLING_RATES[family] / hop
    for num_samples in (1, hop, hop + 1, 5 * hop - 1, 40 * hop, 40 * hop + 17):
        samples = babble(num_samples)
        codes = tokenizer.encode(samples.numpy(), SAMPLING_RATES[family]).codes
        expected = own_codes(model, samples, streams)
        assert codes.shape == (-(-num_samples // hop), streams)
        assert codes.tolist() == expected.tolist()
    assert all(len(set(column)) > 3 for column in codes.T.tolist())


@pytest.mark.parametrize("family", CODECS)
def test_every_prefix_of_the_streams_is_a_tokenizer(family: str, folders: dict[str, Path]) -> None:
    samples = babble(30 * HOPS[family]).numpy()
    tokenizers = [
        codec_tokenizer(str(folders[family]), streams=n, dedup=False, device="cpu") for n in (2, STREAMS[family])
    ]
    few, all_of_them = [tokenizer.encode(samples, SAMPLING_RATES[family]).codes for tokenizer in tokenizers]
    assert few.tolist() == all_of_them[:, :2].tolist()
    prefix = torch.from_numpy(few.astype(np.int64))
    assert torch.equal(*(tokenizer.quantizer.decode(prefix) for tokenizer in tokenizers))
    assert tokenizers[0].fingerprint != tokenizers[1].fingerprint


@pytest.mark.parametrize("family", CODECS)
def test_utterances_do_not_depend_on_their_batch(family: str, folders: dict[str, Path]) -> None:
    upstream = codec(folders[family])
    lengths = [9000, 6001, 2000, 9000]
    batch = torch.full((4, 9000), torch.nan)
    for row, length, seed in zip(batch, lengths, range(4), strict=True):
        row[:length] = babble(length, seed)
    features, counts = upstream.extract(batch, torch.tensor(lengths), [0])
    assert counts.tolist() == [upstream.num_frames(length) for length in lengths]
    for i, length in enumerate(lengths):
        alone, _ = upstream.extract(babble(length, i)[None], torch.tensor([length]), [0])
        assert torch.equal(features[0][i, : counts[i]], alone[0][0])
        assert not features[0][i, counts[i] :].any()


@pytest.mark.parametrize("family", CODECS)
def test_pieces_equal_the_whole(family: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A long recording never passes through the convolutions or the attention at once, and nothing shows it."""
    upstream = codec(folders[family])
    tokenizer = codec_tokenizer(str(folders[family]), streams=STREAMS[family], dedup=False, device="cpu")
    for extra in (0, 1, 250):
        samples = babble(200 * HOPS[family] + extra)[None]
        length = torch.tensor([samples.shape[1]])
        monkeypatch.undo()
        whole = upstream.extract(samples, length, [0])[0][0][0]
        monkeypatch.setattr(upstream, "piece_frames", 30)
        monkeypatch.setattr("voxtok.tokenize.codec.ATTENTION_FRAMES", 70)
        pieces = upstream.extract(samples, length, [0])[0][0][0]
        torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-4 * float(whole.abs().max()))
        assert torch.equal(tokenizer.quantize({0: pieces}), tokenizer.quantize({0: whole}))


def test_windows_are_refused(folders: dict[str, Path]) -> None:
    """They would change tokens, and are not needed."""
    with pytest.raises(ConfigError, match="window-s"):
        windows = WindowConfig(window_s=2.0, overlap_s=0.8)
        extract_samples(codec(folders["dac"]), babble(80100).numpy(), [0], windows)
    with pytest.raises(ConfigError, match="window-s"):  # before any recording is read, long or not
        next(extract([], codec(folders["dac"]), [0], side_by_side([0]), ExtractConfig(windows=windows)))


@pytest.mark.parametrize("family", CODECS)
def test_the_decoder_is_the_vocoder(family: str, folders: dict[str, Path]) -> None:
    """Tokens give the samples that the model's own decode gives, also with runs of tokens merged."""
    model = tiny_codec(family)
    for streams in (2, STREAMS[family]):
        tokenizer = codec_tokenizer(str(folders[family]), streams=streams, dedup=True, device="cpu")
        tokens = tokenizer.encode(babble(20 * HOPS[family]).numpy(), SAMPLING_RATES[family])
        samples = decode_codec(tokenizer, tokens)
        expected = own_decode(model, torch.from_numpy(tokens.expand().codes.astype(np.int64)))
        assert samples.dtype == np.float32 and abs(len(samples) - 20 * HOPS[family]) < HOPS[family]
        torch.testing.assert_close(torch.from_numpy(samples), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", CODECS)
def test_tokens_do_not_depend_on_neighbours(family: str, folders: dict[str, Path]) -> None:
    quantizer = open_codec(codec_codebook(codec(folders[family]).model, STREAMS[family]), CPU)
    frames = gaussian_frames(300, quantizer.width, 1)
    whole = quantizer.encode(frames)
    assert torch.equal(whole, torch.cat([quantizer.encode(part) for part in frames.split(7)]))
    assert all(len(set(column)) > 1 for column in whole[:, :2].T.tolist())
    assert quantizer.decode(whole).shape == frames.shape


def test_quantizers_equal_loops() -> None:
    """Two chained stages by hand: frame (3, 4) is 1 x (3, 4); stage one keeps the first value, stage two the second.

    Stage one projects to 3 and takes the word of the same sign, 2, which goes back as (2, 0). What is left is (1, 4):
    stage two projects to 4 and takes 5, back as (0, 5). Together (2, 5).
    """
    arrays = {
        "centroids": np.array([[[-2.0], [2.0]], [[5.0], [-5.0]]], np.float32),
        "project_in": np.array([[[1.0, 0.0]], [[0.0, 1.0]]], np.float32),
        "project_out": np.array([[[1.0], [0.0]], [[0.0], [1.0]]], np.float32),
    }
    settings = {"width": 2, "stages": [1, 1], "chained": True, "unit": True}
    quantizer = open_codec(Codebook("codec", settings, arrays), CPU)
    codes = quantizer.encode(torch.tensor([[3.0, 4.0], [-1.0, -4.0]]))
    assert codes.tolist() == [[1, 0], [0, 1]]
    assert quantizer.decode(codes).tolist() == [[2.0, 5.0], [-2.0, -5.0]]


@pytest.mark.parametrize("family", CODECS)
def test_the_command_makes_a_tokenizer_that_loads(
    family: str, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tokenizer"
    assert main([str(folders[family]), "--streams", "3", "--dedup", "false", "--out", str(out)]) == 0
    assert "3 streams of 32 tokens" in capsys.readouterr().out
    tokenizer = Tokenizer.load(out, device="cpu")
    samples = babble(10 * HOPS[family]).numpy()
    tokens = tokenizer.encode(samples, SAMPLING_RATES[family])
    again = codec_tokenizer(str(folders[family]), streams=3, dedup=False, device="cpu")
    assert tokens.fingerprint == again.fingerprint
    assert tokens.codes.tolist() == again.encode(samples, SAMPLING_RATES[family]).codes.tolist()
    other = save_codec(family, tmp_path / "other", seed=1)
    with pytest.raises(TokenizerMismatch):
        Tokenizer.load(out, device="cpu", upstream=str(other))


def test_a_store_of_codec_tokens_is_whole(folders: dict[str, Path], tmp_path: Path) -> None:
    """A corpus at 16 kHz through a codec at 24 kHz: resampled, encoded, stored, and read with all its streams."""
    cuts = list(load_cuts(write_toy_corpus(tmp_path / "corpus", [0.4, 1.0, 0.7])))
    tokenizer = codec_tokenizer(str(folders["mimi"]), streams=3, dedup=True, device="cpu")
    summary = encode_corpus(cuts, tokenizer, tmp_path / "store", shard_size=2)
    assert summary is not None and summary["utterances"] == 3 and summary["rejected"] == 0
    store = TokenStore.open(tmp_path / "store")
    assert store.info.vocab_sizes == (32, 32, 32) and store.frame_rate_hz == 12.5
    for cut, tokens in store:
        expected = tokenizer.encode(cut.load_audio(), 16000)
        assert tokens.expand().codes.tolist() == expected.expand().codes.tolist()
        assert tokens.num_frames == math.ceil(cut.duration * 12.5)


def test_weights_in_half_precision_compute_in_float32(folders: dict[str, Path], tmp_path: Path) -> None:
    tiny_codec("mimi").half().save_pretrained(tmp_path)
    half, full = codec(tmp_path), codec(folders["mimi"])
    samples = babble(19200)[None]
    found, expected = (u.extract(samples, torch.tensor([19200]), [0])[0][0] for u in (half, full))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))
    assert half.identity != full.identity


def test_a_missing_tensor_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    """transformers itself would fill it with random values, and say so in a log."""
    for file in folders["encodec"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layers.0.conv.bias"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CorruptFile, match=r"encoder\.layers\.0\.conv\.bias"):
        codec(tmp_path)


def test_stereo_chunks_and_loudness_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """EnCodec at 48 kHz."""
    for file in folders["encodec"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    for change in ({"audio_channels": 2}, {"normalize": True}, {"chunk_length_s": 1.0, "overlap": 0.01}):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ConfigError, match="EnCodec"):
            codec(tmp_path)


def test_bad_use_is_named(folders: dict[str, Path]) -> None:
    path = str(folders["dac"])
    with pytest.raises(ConfigError, match=r"1 \.\. 5 streams, not 6"):
        codec_tokenizer(path, streams=6, dedup=False, device="cpu")
    with pytest.raises(ConfigError, match="mfcc is no codec"):
        codec_tokenizer("mfcc", streams=1, dedup=False, device="cpu")
    with pytest.raises(ConfigError, match="float32"):
        load_upstream(path, device="cpu", dtype="bfloat16")
    with pytest.raises(ConfigError, match="layer 0 only"):
        codec(folders["dac"]).extract(torch.zeros(1, 3200), torch.tensor([3200]), [1])
    tokenizer = codec_tokenizer(path, streams=2, dedup=False, device="cpu")
    tokens = tokenizer.with_dedup(True).encode(babble(3200).numpy(), 16000)
    with pytest.raises(TokenizerMismatch):
        decode_codec(tokenizer, tokens)
    with pytest.raises(ConfigError, match="too short"):
        tokenizer.encode(babble(0).numpy(), 16000)
    with pytest.raises(ConfigError, match="not finite"):
        tokenizer.quantizer.encode(torch.full((3, tokenizer.quantizer.width), torch.nan))
