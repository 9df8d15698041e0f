"""`voxtok import-codebook`: a published k-means file becomes a tokenizer, and none of its code runs.

Published codebooks are .npy arrays, torch files, or joblib pickles of scikit-learn's k-means (HuBERT L9 km500,
mHuBERT L11 km1000, SpeechBrain's). The pickles are read by an unpickler in which every name stands for an inert
record: arrays and numbers come out, nothing is imported and nothing is called.
"""

import bz2
import gzip
import io
import lzma
import pickle
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch

from voxtok.manifests.codebook import kmeans_codebook
from voxtok.runtime.config import parse
from voxtok.runtime.distributed import pick_device
from voxtok.runtime.errors import ConfigError, CorruptFile, one_line
from voxtok.tokenize.load import load_upstream
from voxtok.tokenize.tokenizer import Tokenizer
from voxtok.tokenize.tokenizer_folder import TokenizerConfig
from voxtok.tokenize.upstream import Normalization
from voxtok.tokenize.windows import windows_of

CENTROID_NAMES = ("cluster_centers_", "centroids", "cluster_centers", "codebook", "embedding", "C")
"""Names under which published files keep the (K, D) array, in the order they are tried."""

UNREADABLE = (
    *(OSError, EOFError, ValueError, TypeError, AttributeError, LookupError, RuntimeError),
    *(pickle.UnpicklingError, zlib.error, lzma.LZMAError),
)
"""What readers raise on damaged or hostile files."""

MOST_BYTES = 4 * 2**30
"""A packed file that unpacks to more is refused."""


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Make a tokenizer of a published codebook; layer and upstream must be those it was fitted on."""

    files: tuple[str, ...]
    """The codebook: one .npy, .pt, .safetensors or joblib/pickle file."""
    upstream: str
    """The SSL model that the codebook belongs to: a Hugging Face folder or id, torchaudio:NAME, mfcc or logmel."""
    layer: int
    """The layer that it was fitted on: output of the layer-th block, 1-based (fairseq's number)."""
    dedup: bool
    """Whether the tokenizer merges runs of equal tokens."""
    out: str
    """Tokenizer folder to write."""
    normalization: Normalization = "checkpoint"
    """Waveform normalisation: checkpoint (as its preprocessor says), utterance or none."""
    window_s: float | None = 60.0
    """Recordings longer than this are computed in windows of it; null computes every recording whole."""
    overlap_s: float = 4.0
    """Overlap of windows, of which each side's half is discarded."""

    def __post_init__(self) -> None:
        if len(self.files) != 1:
            raise ConfigError(f"give one codebook file, not {len(self.files)}")


def read_centroids(path: Path | str) -> npt.NDArray[np.float32]:
    """Read the (K, D) centroids of a published file, whatever its format.

    Raises:
        CorruptFile: unreadable, without centroids, or a pickle that needs names other than inert records.
    """
    path = Path(path)
    head = _head(path)
    try:
        if head.startswith(b"\x93NUMPY"):
            found: Any = np.load(path, allow_pickle=False)
        elif head.startswith(b"PK"):
            found = torch.load(path, map_location="cpu", weights_only=True)
        elif path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found = load_file(path)
        else:
            found = read_pickle(path)
    except UNREADABLE as error:
        raise CorruptFile(f"{path}: not a readable codebook ({one_line(error)})") from error
    centroids = _centroids(found)
    if centroids is None:
        raise CorruptFile(f"{path}: holds no (K, D) array under any of the names {', '.join(CENTROID_NAMES)}")
    return np.ascontiguousarray(centroids, dtype=np.float32)


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(8)
    except OSError as error:
        raise CorruptFile(f"{path}: cannot be opened ({error.strerror})") from error


def _centroids(found: Any) -> npt.NDArray[Any] | None:
    if isinstance(found, torch.Tensor):
        found = found.detach().float().numpy()
    if isinstance(found, np.ndarray):
        return found if found.ndim == 2 and found.dtype.kind == "f" else None
    named = found.state if isinstance(found, _Inert) else found
    if isinstance(named, dict):
        for name in CENTROID_NAMES:
            if name in named:
                return _centroids(named[name])
        arrays = [array for array in map(_centroids, named.values()) if array is not None]
        return arrays[0] if len(arrays) == 1 else None
    return None


class _Inert:
    """What any class named in a pickle becomes: its arguments and state, no behaviour."""

    args: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Dtype(_Inert):
    """numpy.dtype('f8', False, True), then its state (version, byte order, ...)."""

    def real(self) -> np.dtype[Any]:
        order = self.state[1] if self.state else "="
        dtype: np.dtype[Any] = np.dtype(self.args[0]).newbyteorder("=" if order == "|" else order)
        if dtype.kind not in "fiub":
            raise pickle.UnpicklingError(f"an array of {self.args[0]} is not read")
        return dtype


class _Array(_Inert):
    """numpy's _reconstruct(...), then its state (version, shape, dtype, fortran order, bytes)."""

    def real(self) -> npt.NDArray[Any]:
        _, shape, dtype, fortran, content = self.state
        flat = np.frombuffer(content, dtype=dtype.real())
        return flat.reshape(shape, order="F" if fortran else "C")


class _JoblibArray(_Inert):
    """joblib's NumpyArrayWrapper: a description whose bytes follow it in the file."""

    def read(self, file: io.BufferedIOBase) -> npt.NDArray[Any]:
        if self.state.get("numpy_array_alignment_bytes") is not None:
            file.read(file.read(1)[0])
        dtype = self.state["dtype"].real()
        shape = tuple(int(size) for size in self.state["shape"])
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        content = file.read(size)
        if len(content) != size:
            raise EOFError("the file ends inside an array")
        order = "F" if self.state["order"] == "F" else "C"
        return np.frombuffer(content, dtype=dtype).reshape(shape, order=cast(Any, order))


def _from_buffer(content: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> npt.NDArray[Any]:
    """numpy's arrays in pickle protocol 5."""
    return np.frombuffer(content, dtype=dtype.real()).reshape(shape, order="F" if order == "F" else "C")


def _latin1(text: str, encoding: str) -> bytes:
    """Bytes in pickle protocols 0 to 2: codecs.encode(text, "latin1")."""
    return text.encode("latin1")


def _reconstructor(kind: Callable[..., Any], base: Any, state: Any) -> Any:
    """Objects in pickle protocols 0 and 1."""
    return kind()


def _stand_in(module: str, name: str) -> Callable[..., Any]:
    """What a name in a pickle becomes; nothing outside this file is ever looked up.

    Raises:
        UnpicklingError: a name that a k-means file has no use for.
    """
    match module.split(".")[0], name:
        case ("numpy", "dtype"):
            return _Dtype
        case ("numpy", "_reconstruct"):
            return _Array
        case ("numpy", "_frombuffer"):
            return _from_buffer
        case ("joblib", "NumpyArrayWrapper"):
            return _JoblibArray
        case ("numpy" | "sklearn" | "joblib", _):
            return _Inert
        case ("_codecs", "encode"):
            return _latin1
        case ("copy_reg" | "copyreg", "_reconstructor"):
            return _reconstructor
        case ("__builtin__" | "builtins", "object" | "bytes"):
            return _Inert
    raise pickle.UnpicklingError(f"it names {module}.{name}, which a codebook has no use for: refused")


_PurePython: Any = pickle._Unpickler
"""The standard library's unpickler in Python, whose handling of an opcode can be replaced."""


class _InertUnpickler(_PurePython):  # type: ignore[misc]
    """An unpickler in which BUILD reads joblib's arrays and no name is ever imported."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        super().__init__(file)
        self.raw = file

    def find_class(self, module: str, name: str) -> Any:
        return _stand_in(module, name)

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it has persistent references: refused")

    def load_build(self) -> None:
        super().load_build()
        top = self.stack[-1]
        if isinstance(top, _JoblibArray):
            self.stack[-1] = top.read(self.raw)
        elif isinstance(top, _Array):
            self.stack[-1] = top.real()

    dispatch: ClassVar = {**_PurePython.dispatch, pickle.BUILD[0]: load_build}


def read_pickle(path: Path) -> Any:
    """Read a plain or compressed (zlib, gzip, bz2, xz, lzma) joblib/pickle file into dicts, arrays, inert records."""
    content = _unpacked(path)
    if len(content) > MOST_BYTES:
        raise ValueError(f"it unpacks to more than {MOST_BYTES} bytes")
    return _InertUnpickler(cast(Any, io.BytesIO(content))).load()


def _unpacked(path: Path) -> bytes:
    """The content, and of a packed file one byte more than MOST_BYTES at most."""
    head = _head(path)
    if head.startswith(b"\x78"):
        unpacking = zlib.decompressobj()
        content = unpacking.decompress(path.read_bytes(), MOST_BYTES + 1)
        if not unpacking.eof and len(content) <= MOST_BYTES:
            raise EOFError("the file ends inside its packed data")
        return content
    for magic, packed in ((b"\x1f\x8b", gzip), (b"BZh", bz2), (b"\xfd7zXZ", lzma), (b"\x5d\0\0", lzma)):
        if head.startswith(magic):
            with packed.open(path) as file:
                return bytes(file.read(MOST_BYTES + 1))
    return path.read_bytes()


def import_codebook(config: ImportConfig) -> Tokenizer:
    """Join a published codebook with its SSL model, and write the tokenizer folder.

    Raises:
        CorruptFile: see `read_centroids`.
        ConfigError: the codebook's dimensions are not those of the layer.
    """
    codebook = kmeans_codebook(read_centroids(config.files[0]))
    described = TokenizerConfig(
        upstream=config.upstream,
        layers=(config.layer,),
        normalization=config.normalization,
        dtype="float32",
        windows=windows_of(config.window_s, config.overlap_s),
        dedup=config.dedup,
    )
    upstream = load_upstream(
        config.upstream,
        device=pick_device("auto"),
        dtype="float32",
        normalization=config.normalization,
        max_layer=config.layer,
    )
    tokenizer = Tokenizer(described, upstream, codebook)
    tokenizer.save(config.out)
    return tokenizer


def main(argv: Sequence[str]) -> int:
    """The command `voxtok import-codebook`."""
    config = parse(ImportConfig, argv, "voxtok import-codebook", positional="files")
    tokenizer = import_codebook(config)
    print(f"{tokenizer.vocab_sizes[0]} tokens, {tokenizer.fingerprint[:12]} -> {config.out}")
    return 0
