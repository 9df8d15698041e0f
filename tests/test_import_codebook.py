"""Published k-means files are read without running anything in them."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.cluster import KMeans, MiniBatchKMeans

from voxtok.runtime.errors import CorruptFile
from voxtok.tokenize import import_codebook
from voxtok.tokenize.import_codebook import read_centroids

FRAMES = np.random.default_rng(0).normal(size=(200, 7)).astype(np.float32)


def fitted(kind: type) -> Any:
    return kind(n_clusters=5, n_init=1, random_state=0).fit(FRAMES)


@pytest.mark.parametrize("kind", [KMeans, MiniBatchKMeans])
@pytest.mark.parametrize("compress", [0, 3])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_joblib_pickles_of_scikit_learn(kind: type, compress: int, protocol: int, tmp_path: Path) -> None:
    model = fitted(kind)
    joblib.dump(model, tmp_path / "km.bin", compress=compress, protocol=protocol)
    assert np.array_equal(read_centroids(tmp_path / "km.bin"), model.cluster_centers_)


@pytest.mark.parametrize("method", ["zlib", "gzip", "bz2", "xz", "lzma"])
def test_only_zlib_was_unpacked(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fitted(KMeans)
    joblib.dump(model, tmp_path / "km.bin", compress=(method, 3))
    assert np.array_equal(read_centroids(tmp_path / "km.bin"), model.cluster_centers_)
    whole = (tmp_path / "km.bin").read_bytes()
    (tmp_path / "cut.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptFile):
        read_centroids(tmp_path / "cut.bin")
    monkeypatch.setattr(import_codebook, "MOST_BYTES", 500)
    with pytest.raises(CorruptFile, match="unpacks to more than 500 bytes"):
        read_centroids(tmp_path / "km.bin")


def test_an_error_without_message_was_shown_as_empty_brackets(tmp_path: Path) -> None:
    (tmp_path / "km.bin").write_bytes(b"")
    with pytest.raises(CorruptFile, match="EOFError"):
        read_centroids(tmp_path / "km.bin")


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_of_scikit_learn(protocol: int, tmp_path: Path) -> None:
    model = fitted(KMeans)
    (tmp_path / "km.pkl").write_bytes(pickle.dumps(model, protocol=protocol))
    assert np.array_equal(read_centroids(tmp_path / "km.pkl"), model.cluster_centers_)


def test_arrays_and_torch_files(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", FRAMES)
    torch.save(torch.from_numpy(FRAMES), tmp_path / "a.pt")
    torch.save({"centroids": torch.from_numpy(FRAMES), "step": 3}, tmp_path / "b.pt")
    save_file({"codebook": torch.from_numpy(FRAMES)}, tmp_path / "c.safetensors")
    for name in ("a.npy", "a.pt", "b.pt", "c.safetensors"):
        assert np.array_equal(read_centroids(tmp_path / name), FRAMES), name


class Hostile:
    """Unpickled by the standard library, this would create a file."""

    def __init__(self, victim: Path, function: Any = os.mkdir) -> None:
        self.victim = victim
        self.function = function

    def __reduce__(self) -> Any:
        return self.function, (str(self.victim),)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_calls_a_function_is_refused_and_nothing_runs(protocol: int, tmp_path: Path) -> None:
    victim = tmp_path / "ran"
    (tmp_path / "km.bin").write_bytes(pickle.dumps({"cluster_centers_": Hostile(victim)}, protocol=protocol))
    with pytest.raises(CorruptFile, match="refused"):
        read_centroids(tmp_path / "km.bin")
    assert not victim.exists()


def test_names_inside_numpy_do_not_run_either(tmp_path: Path) -> None:
    victim = tmp_path / "ran.npy"
    content = b"cnumpy\nsave\n(V" + str(victim).encode() + b"\nI1\ntR."
    (tmp_path / "km.bin").write_bytes(content)
    with pytest.raises(CorruptFile, match="no \\(K, D\\) array"):
        read_centroids(tmp_path / "km.bin")
    assert not victim.exists()


def test_object_arrays_are_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    pickle.dump({"centroids": np.array([[{}]], dtype=object)}, stream)
    (tmp_path / "km.bin").write_bytes(stream.getvalue())
    with pytest.raises(CorruptFile):
        read_centroids(tmp_path / "km.bin")


def test_a_torch_file_with_code_is_refused(tmp_path: Path) -> None:
    torch.save({"centroids": Hostile(tmp_path / "ran")}, tmp_path / "km.pt")
    with pytest.raises(CorruptFile):
        read_centroids(tmp_path / "km.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"\x93NUMPY", b"PK\x03\x04", b"\x78\x9cjunk", b"hello world"])
def test_rubbish_is_a_named_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "km.bin").write_bytes(content)
    with pytest.raises(CorruptFile):
        read_centroids(tmp_path / "km.bin")


def test_a_truncated_file_is_a_named_error(tmp_path: Path) -> None:
    joblib.dump(fitted(KMeans), tmp_path / "km.bin")
    whole = (tmp_path / "km.bin").read_bytes()
    for size in range(0, len(whole), 97):
        (tmp_path / "cut.bin").write_bytes(whole[:size])
        with pytest.raises(CorruptFile):
            read_centroids(tmp_path / "cut.bin")


def test_a_missing_file_is_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match="cannot be opened"):
        read_centroids(tmp_path / "absent.npy")
