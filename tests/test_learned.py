"""Learned quantizers: labels equal the training code's and loops, fits resume to the same bytes, bad use is named."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toy_corpus import write_toy_corpus
from tests.toy_frames import structured_frames
from voxtok.manifests.codebook import Codebook
from voxtok.runtime.commands import main as command
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError, CorruptFile, MissingPart
from voxtok.runtime.files import read_json
from voxtok.tokenize.frames import EVERY_KEY, ArrayFrames, Chunk
from voxtok.tokenize.learned import RoundedLevels, open_learned
from voxtok.tokenize.learned_fit import fit_autoencoder
from voxtok.tokenize.learned_networks import Autoencoder, LearnedConfig, as_codebook
from voxtok.tokenize.quantizer import open_quantizer
from voxtok.tokenize.tokenizer import Tokenizer

CPU = torch.device("cpu")
CONFIGS = {
    "vq": LearnedConfig(
        kind="vq", vocab_size=24, hidden=0, code_width=6, steps=150, batch_frames=400, learning_rate=1e-2
    ),
    "gumbel": LearnedConfig(
        kind="gumbel", vocab_size=8, groups=2, hidden=32, code_width=6, steps=150, batch_frames=400, learning_rate=5e-3
    ),
    "fsq": LearnedConfig(
        kind="fsq", vocab_size=60, levels=(5, 4, 3), hidden=32, steps=150, batch_frames=400, learning_rate=5e-3
    ),
}
KINDS = tuple(CONFIGS)


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    """Away from the origin and of any scale."""
    return 7 * structured_frames(3000, 12, 1, num_modes=20)


@pytest.fixture(scope="module")
def codebooks(frames: torch.Tensor) -> dict[str, tuple[Codebook, dict[str, Any]]]:
    """A fitted codebook of each kind, and its report."""
    heldout = ArrayFrames(7 * structured_frames(500, 12, 2, num_modes=20), 0)
    return {
        kind: fit_autoencoder(ArrayFrames(frames, 0), config, Ranks(), CPU, heldout=heldout)
        for kind, config in CONFIGS.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_describe_frames(
    kind: str, frames: torch.Tensor, codebooks: dict[str, tuple[Codebook, dict[str, Any]]]
) -> None:
    """The error is well below the variance, most tokens are used, and the report says what a loop finds."""
    codebook, report = codebooks[kind]
    quantizer = open_quantizer(codebook, CPU)
    codes = quantizer.encode(frames)
    error = (quantizer.decode(codes) - frames).square().sum(1).double().mean()
    variance = (frames - frames.mean(0)).square().sum(1).double().mean()
    assert error < 0.5 * variance
    assert report["inertia"] == pytest.approx(float(error), rel=1e-5)
    assert report["variance"] == pytest.approx(float(variance), rel=1e-5)
    assert isinstance(report["heldout_inertia"], float) and report["heldout_inertia"] < 0.6 * variance
    streams: list[Any] = report.get("streams", [report])
    for column, size, use in zip(codes.T.tolist(), quantizer.vocab_sizes, streams, strict=True):
        sizes = [column.count(token) for token in range(size)]
        entropy = -sum(n / 3000 * math.log(n / 3000) for n in sizes if n)
        assert use["cluster_sizes"] == sizes and use["dead"] == [k for k, n in enumerate(sizes) if not n]
        assert use["perplexity"] == pytest.approx(math.exp(entropy))
        assert use["usage"] > 0.25
    used = report["perplexity"]
    assert used == ([use["perplexity"] for use in streams] if kind == "gumbel" else streams[0]["perplexity"])


@pytest.mark.parametrize("kind", KINDS)
def test_labels_do_not_depend_on_chunks(
    kind: str, frames: torch.Tensor, codebooks: dict[str, tuple[Codebook, dict[str, Any]]], tmp_path: Path
) -> None:
    codebook, _ = codebooks[kind]
    codebook.save(tmp_path / "codebook.safetensors")
    quantizer = open_learned(Codebook.load(tmp_path / "codebook.safetensors"), CPU)
    whole = quantizer.encode(frames)
    assert torch.equal(whole, torch.cat([quantizer.encode(part) for part in frames.split(13)]))
    assert whole.shape == (3000, len(quantizer.vocab_sizes)) and quantizer.width == 12
    vectors = quantizer.decode(whole)
    assert vectors.dtype == torch.float32 and vectors.shape == frames.shape
    assert quantizer.encode(frames[:0]).shape == (0, len(quantizer.vocab_sizes))
    assert quantizer.decode(whole[:0]).shape == (0, 12)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_arrays_do_what_the_network_does(kind: str, frames: torch.Tensor) -> None:
    """The mean and the scale of the frames are inside the arrays; an untrained network shows it as well as any."""
    config = replace(CONFIGS[kind], hidden=16)
    torch.manual_seed(0)
    model = Autoencoder(config, 12)
    mean, scale = frames.mean(0).double(), 9.0
    model.train()(((frames - mean.float()) / scale), 1.0)  # vq's codewords start here
    model.eval()
    quantizer = open_learned(as_codebook(model, config, mean, scale), CPU)
    codes = quantizer.encode(frames)
    with torch.no_grad():
        latents = model.encoder((frames - mean.float()) / scale)
        if kind == "gumbel":
            chosen = F.one_hot(latents.view(3000, 2, 8).argmax(2), 8).float()
            codewords = torch.einsum("ngk,gkd->ngd", chosen, model.bottleneck.codewords).flatten(1)
        else:
            codewords, _ = model.bottleneck(latents, 1.0)
        expected = model.decoder(codewords) * scale + mean.float()
    found = quantizer.decode(codes)
    same = (found - expected).abs().amax(1) < 1e-3
    assert same.float().mean() > 0.999  # but for near ties, which float32 may decide otherwise
    assert len(codes.unique(dim=0)) > 5


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(3, 9), min_size=1, max_size=4), st.integers(0, 2**31))
def test_rounded_levels_equal_the_package(levels: list[int], seed: int) -> None:
    package = pytest.importorskip("vector_quantize_pytorch").FSQ(levels)
    bottleneck = RoundedLevels(tuple(levels), CPU)
    latents = 2 * torch.randn(200, len(levels), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    codewords, indices = package(latents[None])
    codes = bottleneck.labels(latents)
    assert codes[:, 0].tolist() == indices[0].tolist()
    torch.testing.assert_close(bottleneck.codewords(codes), codewords[0].detach(), rtol=0, atol=1e-12)
    assert bottleneck.vocab_sizes == (math.prod(levels),)
    every = torch.arange(math.prod(levels))[:, None]
    assert len(bottleneck.codewords(every).unique(dim=0)) == len(every)


def test_levels_by_hand() -> None:
    """Levels (5, 3): places 1 and 5; latents 0, 0 are levels 2, 1: 7. Far out, levels 4, 0: 4."""
    bottleneck = RoundedLevels((5, 3), CPU)
    codes = bottleneck.labels(torch.tensor([[0.0, 0.0], [50.0, -50.0]], dtype=torch.float64))
    assert codes.tolist() == [[7], [4]]
    assert bottleneck.codewords(codes).tolist() == [[0.0, 0.0], [1.0, -1.0]]


def test_gumbel_by_hand() -> None:
    """Two groups of two logits; the frame itself is the logits, and 3 wins over 1, 2 over -2."""
    arrays = {
        "encoder.0.weight": np.eye(4, dtype=np.float32),
        "encoder.0.bias": np.zeros(4, np.float32),
        "codewords": np.array([[[10.0], [11.0]], [[20.0], [21.0]]], np.float32),
        "decoder.0.weight": np.array([[1, 0], [0, 1], [1, 1], [0, 0]], np.float32),
        "decoder.0.bias": np.array([0, 0, 0, 5], np.float32),
    }
    quantizer = open_learned(Codebook("gumbel", {}, arrays), CPU)
    codes = quantizer.encode(torch.tensor([[1.0, 3.0, 2.0, -2.0]]))
    assert codes.tolist() == [[1, 0]] and quantizer.vocab_sizes == (2, 2)
    assert quantizer.decode(codes).tolist() == [[11.0, 20.0, 31.0, 5.0]]


class Failing:
    """Frames whose reading stops with an error after some chunks in all, as a killed job does."""

    largest_key = EVERY_KEY
    num_frames: int | None = None

    def __init__(self, frames: torch.Tensor, chunks: int) -> None:
        self.width = frames.shape[1]
        self._frames, self._left = frames, chunks

    def chunks(self) -> Iterator[Chunk]:
        for part in self._frames.split(1000):
            if not self._left:
                raise KeyboardInterrupt
            self._left -= 1
            yield Chunk(part, torch.zeros(len(part), dtype=torch.int64))


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_fit_goes_on_to_the_same_bytes(
    kind: str, frames: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pools of 1000 frames, a checkpoint after each, killed twice; the random state outside is left alone."""
    monkeypatch.setattr("voxtok.tokenize.learned_fit.CHECKPOINT_STEPS", 1)
    config = replace(CONFIGS[kind], steps=24, pool_frames=1000)
    whole, report = fit_autoencoder(Failing(frames, 10**9), config, Ranks(), CPU)
    before = torch.get_rng_state()
    for chunks in (6, 9):  # the first three measure the frames
        with pytest.raises(KeyboardInterrupt):
            fit_autoencoder(Failing(frames, chunks), config, Ranks(), CPU, checkpoint=tmp_path)
        assert (tmp_path / f"{kind}.pt").exists()
    resumed, report_again = fit_autoencoder(Failing(frames, 10**9), config, Ranks(), CPU, checkpoint=tmp_path)
    assert resumed.sha256 == whole.sha256
    assert report_again == report
    assert torch.equal(torch.get_rng_state(), before)
    other = replace(config, seed=1)
    assert fit_autoencoder(Failing(frames, 10**9), other, Ranks(), CPU, checkpoint=tmp_path)[0].sha256 != whole.sha256


def test_dead_codewords_are_restarted(frames: torch.Tensor) -> None:
    """All codewords but one begin far from every frame, and none is dead in the end."""
    torch.manual_seed(0)
    model = Autoencoder(replace(CONFIGS["vq"], decay=0.8), 12).train()
    quantize = model.bottleneck.quantize
    batch = frames[:400] / 20
    model(batch, 1.0)
    assert isinstance(quantize, torch.nn.Module)
    quantize.codebook = torch.cat([torch.zeros(1, 6), 1e4 + torch.arange(23.0)[:, None].expand(23, 6)])
    state = quantize.state_dict()
    state["_codebook.embed_avg"] = state["_codebook.embed"] * state["_codebook.cluster_size"][..., None]
    quantize.load_state_dict(state)
    for _ in range(60):
        model(batch, 1.0)
    assert len(quantize(model.encoder(batch)[None])[1].unique()) > 12


@pytest.mark.parametrize("kind", KINDS)
def test_voxtok_fit_reaches_them_by_name(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few steps, since only the way there and back is tested."""
    monkeypatch.setattr("voxtok.tokenize.learned_networks.LearnedConfig", partial(LearnedConfig, steps=20))
    cuts = write_toy_corpus(tmp_path / "corpus", [1.0, 1.5, 0.7])
    words = ["--levels", "5,3"] if kind == "fsq" else []
    words += ["--quantizer", kind, "--vocab-size", "15", "--upstream", "mfcc", "--layer", "0", "--dedup", "false"]
    assert command(["fit", "--cuts", str(cuts), "--out", str(tmp_path / "t"), "--device", "cpu", *words]) == 0
    tokenizer = Tokenizer.load(tmp_path / "t", device="cpu")
    health = read_json(tmp_path / "t" / "health.json")
    assert tokenizer.codebook.kind == kind and tokenizer.vocab_sizes == (15,)
    assert health["config"]["seed"] == 0 and sum(health["cluster_sizes"]) == health["frames"]
    tokens = tokenizer.encode(np.random.default_rng(0).normal(size=8000), 16000)
    assert tokenizer.centroids(tokens.codes).shape == (len(tokens), 39)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "fqs", "vocab_size": 5}, "vq, gumbel or fsq, not 'fqs'"),
        ({"kind": "fsq", "vocab_size": 100, "levels": (8, 5, 5, 5)}, "make 1000 tokens, not 100"),
        ({"kind": "fsq", "vocab_size": 10, "levels": (5, 2)}, "at least 3"),
        ({"kind": "fsq", "vocab_size": 10}, "needs levels"),
        ({"kind": "vq", "vocab_size": 10, "levels": (5, 2)}, "have none"),
        ({"kind": "vq", "vocab_size": 10, "groups": 2}, "only gumbel"),
        ({"kind": "gumbel", "vocab_size": 10, "groups": 3, "code_width": 64}, "multiple"),
        ({"kind": "vq", "vocab_size": 0}, "at least 1"),
        ({"kind": "vq", "vocab_size": 5, "steps": 0}, "positive"),
        ({"kind": "vq", "vocab_size": 5, "decay": 1.0}, "decay"),
    ],
)
def test_impossible_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LearnedConfig(**options)


def test_bad_use_is_named(frames: torch.Tensor, codebooks: dict[str, tuple[Codebook, dict[str, Any]]]) -> None:
    config = CONFIGS["vq"]
    with pytest.raises(ConfigError, match="10 frames cannot make 24 tokens"):
        fit_autoencoder(ArrayFrames(frames[:10], 0), config, Ranks(), CPU)
    with pytest.raises(ConfigError, match="one rank"):
        fit_autoencoder(ArrayFrames(frames, 0), config, Ranks(0, 2), CPU)
    broken = frames.clone()
    broken[1234, 5] = torch.nan
    with pytest.raises(ConfigError, match="frame 1234 is not finite"):
        fit_autoencoder(ArrayFrames(broken, 0), config, Ranks(), CPU)
    for codebook, _ in codebooks.values():
        with pytest.raises(ConfigError, match=r"\(N, 12\)"):
            open_learned(codebook, CPU).encode(frames[:, :5])
        with pytest.raises(ConfigError, match="frame 1234 is not finite"):
            open_learned(codebook, CPU).encode(broken)
        arrays = {name: array for name, array in codebook.arrays.items() if not name.startswith("decoder")}
        with pytest.raises(CorruptFile, match="decoder"):
            open_learned(replace(codebook, arrays=arrays), CPU)
    with pytest.raises(CorruptFile, match="levels"):
        open_learned(replace(codebooks["fsq"][0], settings={}), CPU)


@pytest.mark.parametrize("kind", ["vq", "fsq"])
def test_a_missing_package_is_named(kind: str, frames: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vector_quantize_pytorch", None)
    with pytest.raises(MissingPart, match=r"pip install 'voxtok\[vq\]'"):
        fit_autoencoder(ArrayFrames(frames, 0), CONFIGS[kind], Ranks(), CPU)
