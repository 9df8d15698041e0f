"""`voxtok fit`: cuts -> tokenizer. Features of SSL layers stream into a quantizer, from audio or a bounded cache.

The folder ends with tokenizer.json, codebook.safetensors, health.json and rejected.jsonl. While fitting, work/ holds
the checkpoints of the quantizer and the cache; a killed job run again goes on there and ends with the same bytes. These
follow from the machine too: another number of threads or ranks, or another kind of device, adds up in another order, so
that centroids differ by rounding, and the tokenizer has another fingerprint. Fit once, and pass the folder on.
"""

import hashlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lhotse.cut import Cut

from voxtok.manifests.codebook import Codebook
from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.identity import inputs_of
from voxtok.runtime.config import parse
from voxtok.runtime.distributed import Ranks, connected_ranks, pick_device
from voxtok.runtime.errors import BadAudio, ConfigError
from voxtok.runtime.files import read_json, read_jsonl, sha256, write_json, write_jsonl
from voxtok.runtime.progress import Progress
from voxtok.tokenize.extract import ExtractConfig, extract, side_by_side
from voxtok.tokenize.fit_codebook import QuantizerConfig, check_fit, check_layers, fit_codebook
from voxtok.tokenize.frame_cache import cached
from voxtok.tokenize.frames import FrameSource, UtteranceFrames
from voxtok.tokenize.load import load_upstream
from voxtok.tokenize.tokenizer import Tokenizer
from voxtok.tokenize.tokenizer_folder import TokenizerConfig
from voxtok.tokenize.upstream import Dtype, Normalization, Upstream
from voxtok.tokenize.windows import WindowConfig, windows_of

log = logging.getLogger("voxtok")


@dataclass(frozen=True, kw_only=True)
class FitConfig(QuantizerConfig):
    """Fit a quantizer on one layer of an SSL model, or on several side by side."""

    cuts: str
    """Lhotse cuts, recordings or Shar folder."""
    upstream: str
    """mfcc, logmel, a Hugging Face folder or id[@revision], or torchaudio:NAME[=checkpoint]."""
    layer: int | tuple[int, ...]
    """Output of the layer-th transformer block, 1-based; 0 is the input to block 1 (mfcc and logmel have 0 only).
    Several, such as 1,3,7, are quantized side by side: --quantizer pq --streams 3 gives each its own codebook."""
    dedup: bool
    """Whether the tokenizer merges runs of equal tokens into one with a duration."""
    out: str
    """Tokenizer folder to write."""
    hours: float | None = None
    """Fit on a random subset of utterances of about this many hours; null takes all."""
    heldout: float = 0.02
    """Share of utterances kept out of the fit, whose inertia the health report gives."""
    cache: Literal["memory", "disk", "none"] = "memory"
    """Where features wait between passes over them; none computes them anew from audio for every pass."""
    cache_gb: float = 8.0
    """Bound of that cache, per rank; beyond it a random subset of the frames is kept."""
    cache_dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Number format of the cache."""
    normalization: Normalization = "checkpoint"
    """Waveform normalisation: as the checkpoint's preprocessor says, always, or never (kNN-VC)."""
    dtype: Dtype = "float32"
    """Number format that the SSL model computes in."""
    compiled: bool = False
    """Let torch.compile fuse the blocks (wav2vec2 family): a minute to start with, and rounding changes a little."""
    window_s: float | None = 60.0
    """Recordings longer than this are computed in windows of it; null computes every recording whole."""
    overlap_s: float = 4.0
    """Overlap of windows, of which each side's half is discarded."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    strict: bool = False
    """Stop at the first bad recording instead of listing it in rejected.jsonl."""
    max_batch_s: float = 240.0
    """Padded seconds of audio in a batch, on a GPU."""
    readers: int = 2
    """Threads that read and resample audio."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layers(self, self.layers)
        if not 0 <= self.heldout < 1:
            raise ConfigError("heldout is a share: 0 <= heldout < 1")
        if self.hours is not None and self.hours <= 0:
            raise ConfigError("hours must be positive, or null for all")
        if self.cache_gb <= 0:
            raise ConfigError("cache-gb must be positive")

    @property
    def layers(self) -> tuple[int, ...]:
        """All layers."""
        return (self.layer,) if isinstance(self.layer, int) else tuple(self.layer)

    @property
    def windows(self) -> WindowConfig | None:
        """The windows of long recordings."""
        return windows_of(self.window_s, self.overlap_s)


def fit(config: FitConfig, ranks: Ranks | None = None) -> Tokenizer:
    """Fit a tokenizer and write its folder, or go on where a killed job stopped; a finished one is only loaded.

    Raises:
        ConfigError: more centroids than frames, a layer that the upstream lacks.
        BadAudio: with `strict`, the first bad recording.
    """
    ranks = ranks or Ranks()
    upstream = load_upstream(
        config.upstream,
        device=pick_device(config.device),
        dtype=config.dtype,
        normalization=config.normalization,
        max_layer=max(config.layers),
        compiled=config.compiled,
    )
    out = Path(config.out)
    training, heldout = choose(list(load_cuts(config.cuts)), config)
    inputs = _inputs_hash(config, upstream, training, heldout)
    if (out / "done.json").exists() and read_json(out / "done.json")["inputs"] == inputs:
        log.info("%s is up to date", out)
        for row in read_jsonl(out / "rejected.jsonl") if config.strict else ():
            raise BadAudio(row["id"], row["reason"], row["detail"])
        return Tokenizer(_described(config), upstream, Codebook.load(out / "codebook.safetensors"))
    check_fit(config, upstream.width * len(config.layers), ranks)
    work = _work_folder(out, inputs, ranks)
    codebook, report = fit_codebook(
        _source(config, upstream, training, ranks, work, "training"),
        config,
        ranks,
        pick_device(config.device),
        checkpoint=work,
        heldout=_source(config, upstream, heldout, ranks, work, "heldout") if heldout else None,
    )
    tokenizer = Tokenizer(_described(config), upstream, codebook)
    if ranks.is_first:
        tokenizer.save(out)
        write_json(out / "health.json", report)
        rows = [row for path in work.glob("rejected.*.jsonl") for row in read_jsonl(path)]
        write_jsonl(out / "rejected.jsonl", sorted(rows, key=lambda row: str(row["id"])))
        write_json(out / "done.json", {"inputs": inputs})
        shutil.rmtree(work)
    ranks.barrier()
    return tokenizer


def choose(cuts: Sequence[Cut], config: FitConfig) -> tuple[list[tuple[int, Cut]], list[tuple[int, Cut]]]:
    """Split cuts into those to fit on and those held out, each with its index; seeded, in the order of the corpus."""
    order = np.random.default_rng(config.seed).permutation(len(cuts))
    if config.hours is not None:
        ends_s = np.cumsum([cuts[i].duration for i in order])
        order = order[: 1 + int(np.searchsorted(ends_s, config.hours * 3600))]
    num_heldout = min(round(config.heldout * len(order)), len(order) - 1) if len(order) else 0
    heldout, training = sorted(order[:num_heldout].tolist()), sorted(order[num_heldout:].tolist())
    return [(i, cuts[i]) for i in training], [(i, cuts[i]) for i in heldout]


def _source(
    config: FitConfig, upstream: Upstream, members: Sequence[tuple[int, Cut]], ranks: Ranks, work: Path, part: str
) -> FrameSource:
    """This rank's frames, computed from audio in every pass or kept in the cache after the first."""
    mine = members[ranks.rank :: ranks.world_size]
    share = f"{part}.{ranks.rank}of{ranks.world_size}"
    rejected = work / f"rejected.{share}.jsonl"
    width = upstream.width * len(config.layers)
    frames = UtteranceFrames(width, partial(_utterances, config, upstream, mine, rejected), config.seed)
    if config.cache == "none":
        return frames
    where: Path | Literal["memory"] = "memory" if config.cache == "memory" else work / f"cache.{share}"
    return cached(frames, where, getattr(torch, config.cache_dtype), int(config.cache_gb * 1e9))


def _utterances(
    config: FitConfig, upstream: Upstream, members: Sequence[tuple[int, Cut]], rejected: Path
) -> Iterator[tuple[int, torch.Tensor]]:
    """(index in the corpus, (n, D) frames) of every readable utterance; a whole pass lists the others in `rejected`."""
    extraction = ExtractConfig(windows=config.windows, max_batch_s=config.max_batch_s, readers=config.readers)
    reduce = side_by_side(config.layers)
    results = extract((cut for _, cut in members), upstream, config.layers, reduce, extraction)
    bad: list[BadAudio] = []
    with Progress("features", sum(cut.duration for _, cut in members)) as progress:
        for (index, cut), (_, frames) in zip(members, results, strict=True):
            progress.add(cut.duration)
            if not isinstance(frames, BadAudio):
                yield index, frames
            elif config.strict:
                raise frames
            else:
                bad.append(frames)
    write_jsonl(rejected, (error.row() for error in bad))


def _described(config: FitConfig) -> TokenizerConfig:
    return TokenizerConfig(
        upstream=config.upstream,
        layers=config.layers,
        normalization=config.normalization,
        dtype=config.dtype,
        windows=config.windows,
        dedup=config.dedup,
    )


RESULT_OPTIONS = (
    *("quantizer", "vocab_size", "streams", "levels", "dedup", "seed", "backend", "restarts", "passes", "steps"),
    *("window_s", "overlap_s", "cache", "cache_gb", "cache_dtype"),
)
"""Options that change the codebook, beside the cuts, the upstream and the layers."""


def _inputs_hash(
    config: FitConfig, upstream: Upstream, training: Sequence[tuple[int, Cut]], heldout: Sequence[tuple[int, Cut]]
) -> str:
    options = asdict(config)
    chosen = {"layers": config.layers, **{name: options[name] for name in RESULT_OPTIONS}}
    hashed = hashlib.sha256(sha256([chosen, upstream.identity]).encode())
    for part in (training, heldout):
        for index, cut in part:
            hashed.update(sha256([index, inputs_of(cut)]).encode())
        hashed.update(b"|")
    return hashed.hexdigest()


def _work_folder(out: Path, inputs: str, ranks: Ranks) -> Path:
    """The folder of half-done work, emptied where it belongs to other inputs."""
    work = out / "work"
    ranks.barrier()  # every rank has read done.json
    if ranks.is_first:
        (out / "done.json").unlink(missing_ok=True)
        mark = work / "inputs.json"
        if not mark.exists() or read_json(mark) != inputs:
            shutil.rmtree(work, ignore_errors=True)
            write_json(mark, inputs)
        of = f"*of{ranks.world_size}"
        for left in {*work.glob("cache.*"), *work.glob("rejected.*")} - {*work.glob(of), *work.glob(f"{of}.jsonl")}:
            # Of another number of ranks: its shares of the corpus are not these ranks'.
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    ranks.barrier()
    return work


def summary(tokenizer: Tokenizer, health: dict[str, Any]) -> str:
    """One line for the terminal."""
    sizes = "x".join(map(str, tokenizer.vocab_sizes))
    found = health["perplexity"] if isinstance(health["perplexity"], list) else [health["perplexity"]]
    return f"{sizes} tokens, perplexity {' '.join(f'{one:.1f}' for one in found)}, {tokenizer.fingerprint[:12]}"


def main(argv: Sequence[str]) -> int:
    """The command `voxtok fit`."""
    config = parse(FitConfig, argv, "voxtok fit")
    with connected_ranks() as ranks:
        tokenizer = fit(config, ranks)
        if ranks.is_first:
            print(summary(tokenizer, read_json(Path(config.out) / "health.json")), "->", config.out)
    return 0
