"""Every quantizer through `voxtok fit` and `encode`, on two ranks, and with options that cannot be."""

import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.multiprocessing.spawn import spawn

from tests.quantizer_rank import CONFIGS, fit_as_rank
from tests.tiny_models import save_tiny
from tests.toy_corpus import toy_speech, write_toy_corpus
from tests.toy_frames import structured_frames
from voxtok.manifests.codebook import Codebook
from voxtok.manifests.store import TokenStore
from voxtok.runtime.commands import main
from voxtok.runtime.config import parse
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError
from voxtok.runtime.files import read_json
from voxtok.tokenize.fit import FitConfig
from voxtok.tokenize.fit_codebook import QuantizerConfig, fit_codebook
from voxtok.tokenize.frames import ArrayFrames
from voxtok.tokenize.tokenizer import Tokenizer

NEEDED = ["--cuts", "c", "--upstream", "mfcc", "--dedup", "false", "--out", "o", "--vocab-size", "8"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_corpus(tmp_path_factory.mktemp("corpus"), [1.0 + 0.1 * i for i in range(8)])


@pytest.mark.parametrize(
    ("words", "sizes"),
    [
        ("--quantizer rvq --streams 3 --vocab-size 6", (6, 6, 6)),
        ("--quantizer pq --streams 3 --vocab-size 6", (6, 6, 6)),
        ("--quantizer opq --streams 3 --vocab-size 6", (6, 6, 6)),
        ("--quantizer random-projection --streams 2 --vocab-size 300", (300, 300)),
    ],
)
def test_fitted_saved_loaded_and_encoded(
    corpus: Path, tmp_path: Path, words: str, sizes: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--cuts", str(corpus), "--device", "cpu"]
    fitting = ["fit", *given, *words.split(), "--upstream", "mfcc", "--layer", "0", "--dedup", "false"]
    assert main([*fitting, "--out", str(tmp_path / "t")]) == 0
    assert f"{'x'.join(map(str, sizes))} tokens, perplexity" in capsys.readouterr().out
    assert not (tmp_path / "t" / "work").exists()
    assert main(["encode", *given, "--tokenizer", str(tmp_path / "t"), "--out", str(tmp_path / "s")]) == 0
    store, tokenizer = TokenStore.open(tmp_path / "s"), Tokenizer.load(tmp_path / "t", device="cpu")
    assert store.info.vocab_sizes == tokenizer.vocab_sizes == sizes
    for cut, tokens in store:
        frames = tokenizer.features(cut.load_audio(), 16000)
        assert np.array_equal(tokens.codes, tokenizer.quantizer.encode(frames).numpy())
        assert tokens.dedup().expand().codes.tolist() == tokens.codes.tolist()
        assert tokenizer.centroids(tokens.codes).shape == frames.shape
    when = (tmp_path / "t" / "codebook.safetensors").stat().st_mtime_ns
    assert main([*fitting, "--out", str(tmp_path / "t")]) == 0
    assert (tmp_path / "t" / "codebook.safetensors").stat().st_mtime_ns == when
    health = read_json(tmp_path / "t" / "health.json")
    assert health["inertia"] > 0 and health["heldout_inertia"] is None and len(health["perplexity"]) == len(sizes)


def test_layers_as_streams_equal_a_tokenizer_of_each(corpus: Path, tmp_path: Path) -> None:
    model = str(save_tiny("hubert-base", tmp_path / "model"))
    given = ["fit", "--cuts", str(corpus), "--upstream", model, "--vocab-size", "6", "--dedup", "false"]
    given += ["--heldout", "0", "--device", "cpu", "--cache-dtype", "float32"]
    assert main([*given, "--layer", "1,3", "--quantizer", "pq", "--streams", "2", "--out", str(tmp_path / "both")]) == 0
    both = Tokenizer.load(tmp_path / "both", device="cpu")
    assert both.config.layers == (1, 3)
    samples = toy_speech(2.0, seed=3)[0]
    codes = both.encode(samples, 16000).codes
    for stream, layer in enumerate((1, 3)):
        assert main([*given, "--layer", str(layer), "--out", str(tmp_path / f"{layer}")]) == 0
        alone = Tokenizer.load(tmp_path / f"{layer}", device="cpu")
        centroids = both.codebook.arrays["centroids"][stream]
        np.testing.assert_allclose(centroids, alone.codebook.centroids, rtol=1e-4, atol=1e-4)
        assert np.mean(codes[:, stream] == alone.encode(samples, 16000).codes[:, 0]) > 0.98


def test_layers_from_the_command_line_and_yaml(tmp_path: Path) -> None:
    found: list[Any] = []
    for words in (["--layer", "9"], ["--layer=9"], ["--layer", "1,3,7"], ["--layer", "[1,3]"]):
        found.append(parse(FitConfig, [*NEEDED, *words], "x").layers)
    assert found == [(9,), (9,), (1, 3, 7), (1, 3)]
    for text, layers in (("layer: 9", (9,)), ("layer: [1, 3]", (1, 3))):
        (tmp_path / "c.yaml").write_text(text + "\n")
        assert parse(FitConfig, [*NEEDED, "--config", str(tmp_path / "c.yaml")], "x").layers == layers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantizer": "rqv", "streams": 2}, r"unknown quantizer 'rqv': did you mean rvq\? There are kmeans, rvq"),
        ({"quantizer": "k-means"}, r"did you mean kmeans\?"),
        ({"quantizer": "rvq"}, "--quantizer rvq needs --streams"),
        ({"quantizer": "kmeans", "streams": 2}, "has one stream and takes no --streams"),
        ({"quantizer": "pq", "streams": 0}, "streams must be at least 1"),
        ({"quantizer": "fsq"}, "fsq needs --levels"),
        ({"quantizer": "rvq", "streams": 2, "levels": (8,)}, "rvq takes no --levels"),
        ({"quantizer": "fsq", "levels": (8, 5)}, "make 40 tokens, not 8"),
        ({"quantizer": "fsq", "levels": (8, 1)}, "at least 3 each"),
        ({"quantizer": "rvq", "streams": 2, "backend": "faiss"}, "--backend faiss is for --quantizer kmeans"),
        ({"vocab_size": 0}, "vocab-size must be at least 1"),
    ],
)
def test_options_that_cannot_be_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        QuantizerConfig(**{"vocab_size": 8, **options})


def test_layers_that_cannot_be_are_named() -> None:
    for words, message in ((["--layer", "3,3"], "each once"), (["--layer", "[]"], "at least one number")):
        with pytest.raises(ConfigError, match=message):
            parse(FitConfig, [*NEEDED, *words], "x")
    with pytest.raises(ConfigError, match="streams must be a multiple"):
        parse(FitConfig, [*NEEDED, "--layer", "1,3", "--quantizer", "pq", "--streams", "3"], "x")


def test_two_ranks_give_the_codebooks_of_one(tmp_path: Path) -> None:
    frames = structured_frames(1500, 20, 1)
    np.save(tmp_path / "frames.npy", frames.numpy())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        (tmp_path / "port").write_text(str(probe.getsockname()[1]))
    spawn(fit_as_rank, (tmp_path, 1000), nprocs=2)
    for config in CONFIGS:
        alone_path = tmp_path / f"{config.quantizer}-alone"
        if config.quantizer == "opq":  # turns of learning a rotation let rounding grow: the first rank's is taken over
            alone_path.mkdir()
            shutil.copy(tmp_path / "opq" / "rotation", alone_path)
        alone, _ = fit_codebook(ArrayFrames(frames, 0), config, Ranks(), torch.device("cpu"), alone_path)
        both = [Codebook.load(tmp_path / f"{config.quantizer}{rank}.safetensors") for rank in (0, 1)]
        assert both[0].sha256 == both[1].sha256, config
        for name, array in alone.arrays.items():
            np.testing.assert_allclose(both[0].arrays[name], array, rtol=1e-4, atol=1e-4, err_msg=config.quantizer)
