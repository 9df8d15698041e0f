"""Training a learned quantizer out of core: pools of frames are shuffled, and updates reconstruct them.

The loss is the mean squared error in the frames' own space, the inertia of k-means, over their variance. All that is
random is drawn from (seed, pass, pool), so that a killed fit goes on from its checkpoint to the same bytes.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from voxtok.manifests.codebook import Codebook
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import ConfigError
from voxtok.runtime.files import sha256
from voxtok.runtime.optional import require
from voxtok.runtime.training import Checkpoint, learning_rate, load_checkpoint, save_checkpoint
from voxtok.tokenize.frames import FrameSource
from voxtok.tokenize.kmeans_health import perplexity
from voxtok.tokenize.learned import open_learned
from voxtok.tokenize.learned_networks import Autoencoder, LearnedConfig, as_codebook

log = logging.getLogger("voxtok")

CHECKPOINT_STEPS = 100
"""Steps between checkpoints at least; they are made between pools."""


def check_learned(kind: str, ranks: Ranks) -> None:
    """Check what a quantizer of this kind needs before any frames are there.

    Raises:
        ConfigError: several ranks.
        MissingPart: vq and fsq train with the package vector-quantize-pytorch.
    """
    if ranks.world_size > 1:
        raise ConfigError(f"{kind} trains on one rank: run voxtok fit without torchrun, on any one device")
    if kind != "gumbel":
        require("vector_quantize_pytorch", "vq")


def fit_autoencoder(
    source: FrameSource,
    config: LearnedConfig,
    ranks: Ranks,
    device: torch.device,
    checkpoint: Path | None = None,
    heldout: FrameSource | None = None,
) -> tuple[Codebook, dict[str, Any]]:
    """Train a learned quantizer.

    Args:
        source: frames, read again and again.
        config: what to train, and for how long.
        ranks: must be one.
        device: where it trains.
        checkpoint: folder of what is half done; a killed fit goes on there and ends with the same bytes.
        heldout: other frames, to report the error on.

    Returns:
        The codebook, and its health as JSON: inertia, heldout_inertia, perplexity, ...

    Raises:
        ConfigError: several ranks, fewer frames than tokens, frames that are not finite, impossible levels.
        MissingPart: vq and fsq train with the package vector-quantize-pytorch.
    """
    check_learned(config.kind, ranks)
    scale = _measure(source)
    if scale.num_frames < config.vocab_size:
        raise ConfigError(f"{scale.num_frames} frames cannot make {config.vocab_size} tokens: lower vocab-size")
    file = None if checkpoint is None else checkpoint / f"{config.kind}.pt"
    model, history = _train(source, config, scale, device, file)
    codebook = as_codebook(model, config, scale.mean, scale.deviation)
    report = {
        "method": config.kind,
        "config": asdict(config) | {"levels": list(config.levels)},
        "width": source.width,
        "variance": scale.variance,
        **_evaluate(codebook, source, device),
        "heldout_inertia": None if heldout is None else _evaluate(codebook, heldout, device)["inertia"],
        "history": history,
    }
    return codebook, report


@dataclass(frozen=True)
class Scale:
    """Of the frames: how many, their mean (D,) float64, and their mean squared distance from it."""

    num_frames: int
    mean: torch.Tensor
    variance: float

    @property
    def deviation(self) -> float:
        """What frames are divided by: their root mean squared value, over dimensions too."""
        return max(math.sqrt(self.variance / len(self.mean)), 1e-12)


def _measure(source: FrameSource) -> Scale:
    num_frames, total, squares = 0, torch.zeros(source.width, dtype=torch.float64), 0.0
    for frames in _finite(source):
        exact = frames.double()
        num_frames += len(exact)
        total += exact.sum(0)
        squares += float(exact.square().sum())
    mean = total / max(num_frames, 1)
    return Scale(num_frames, mean, max(squares / max(num_frames, 1) - float(mean.square().sum()), 0.0))


def _finite(source: FrameSource) -> Iterator[torch.Tensor]:
    """(n, D) float32 frames on the CPU, chunk by chunk."""
    seen = 0
    for chunk in source.chunks():
        frames = chunk.frames.float().cpu()
        finite = torch.isfinite(frames).all(dim=1)
        if not finite.all():
            raise ConfigError(f"frame {seen + int((~finite).nonzero()[0])} is not finite: fit on features without NaN")
        seen += len(frames)
        yield frames


def _pools(source: FrameSource, num_frames: int) -> Iterator[torch.Tensor]:
    """The frames of one pass in pools of at least `num_frames`, but for the last."""
    waiting: list[torch.Tensor] = []
    for frames in _finite(source):
        waiting.append(frames)
        if sum(map(len, waiting)) >= num_frames:
            yield torch.cat(waiting)
            waiting = []
    if waiting:
        yield torch.cat(waiting)


@dataclass
class Training:
    """A training and how far it is: at the beginning of a pool of a pass over the frames."""

    model: Autoencoder
    optimizer: torch.optim.Adam
    step: int = 0
    pass_number: int = 0
    pool: int = 0
    history: tuple[dict[str, float], ...] = ()

    def save(self, path: Path, config: str) -> None:
        """Write a checkpoint."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "place": [self.pass_number, self.pool],
            "history": list(self.history),
        }
        save_checkpoint(path, Checkpoint(self.step, config, state))

    def resume(self, path: Path, config: str) -> None:
        """Go on from a checkpoint, if there is one of the same configuration."""
        if not path.exists():
            return
        found = load_checkpoint(path)
        if found.config != config:
            return
        self.model.load_state_dict(found.state["model"])
        self.optimizer.load_state_dict(found.state["optimizer"])
        self.pass_number, self.pool = found.state["place"]
        self.step, self.history = found.step, tuple(found.state["history"])


def _train(
    source: FrameSource, config: LearnedConfig, scale: Scale, device: torch.device, file: Path | None
) -> tuple[Autoencoder, list[dict[str, float]]]:
    """Update until the configured steps are done."""
    with _random_state(device, [config.seed, "weights"]):
        model = Autoencoder(config, source.width).to(device).train()
    training = Training(model, torch.optim.Adam(model.parameters(), lr=config.learning_rate))
    identity = sha256([asdict(config), source.width, scale.num_frames, scale.variance])
    if file is not None:
        training.resume(file, identity)
    saved = training.step
    while training.step < config.steps:
        for pool, frames in enumerate(_pools(source, config.pool_frames)):
            if pool < training.pool:
                continue
            _train_on(training, config, (frames - scale.mean.float()) / scale.deviation, device)
            training.pool = pool + 1
            if file is not None and training.step - saved >= CHECKPOINT_STEPS:
                training.save(file, identity)
                saved = training.step
            if training.step >= config.steps:
                break
        else:
            training.pass_number, training.pool = training.pass_number + 1, 0
    return training.model.eval(), list(training.history)


def _train_on(training: Training, config: LearnedConfig, frames: torch.Tensor, device: torch.device) -> None:
    """One update for each batch of a pool of (n, D) frames, shuffled; a short last batch is left out."""
    errors: list[torch.Tensor] = []
    with _random_state(device, [config.seed, training.pass_number, training.pool]):
        order = torch.randperm(len(frames))
        batches = order.split(config.update_frames)
        for batch in batches[: max(1, len(order) // config.update_frames)]:
            if training.step >= config.steps:
                break
            rate = learning_rate(
                training.step,
                peak=config.learning_rate,
                warmup_steps=config.steps // 20,
                steps=config.steps,
                decay_share=0.5,
            )
            for group in training.optimizer.param_groups:
                group["lr"] = rate
            wanted = frames[batch].to(device)
            found, loss = training.model(wanted, config.temperature(training.step))
            error = (found - wanted).square().mean()
            training.optimizer.zero_grad()
            (error + loss).backward()
            training.optimizer.step()
            training.step += 1
            errors.append(error.detach())
    if errors:
        row = {"step": training.step, "relative_error": float(torch.stack(errors).mean())}
        training.history += (row,)
        log.info("%s, step %d: error %.4f of the variance", config.kind, row["step"], row["relative_error"])


@contextmanager
def _random_state(device: torch.device, seed: list[Any]) -> Iterator[None]:
    """Random numbers that follow from `seed` alone, and leave no trace."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(sha256(seed)[:12], 16))
        yield


def _evaluate(codebook: Codebook, source: FrameSource, device: torch.device) -> dict[str, Any]:
    """The error and the use of tokens over all frames."""
    quantizer = open_learned(codebook, device)
    counts = [torch.zeros(size, dtype=torch.int64) for size in quantizer.vocab_sizes]
    num_frames, error = 0, 0.0
    for frames in _finite(source):
        codes = quantizer.encode(frames)
        error += float((quantizer.decode(codes).cpu().double() - frames.double()).square().sum())
        num_frames += len(frames)
        for count, column in zip(counts, codes.cpu().T, strict=True):
            count += torch.bincount(column, minlength=len(count))
    streams = [_use_of(count) for count in counts]
    use = streams[0]
    if len(streams) > 1:
        use = {"perplexity": [stream["perplexity"] for stream in streams], "streams": streams}
    return {"frames": num_frames, "inertia": error / max(num_frames, 1), **use}


def _use_of(counts: torch.Tensor) -> dict[str, Any]:
    """How one stream's (K,) tokens are used."""
    used = perplexity(counts)
    return {
        "perplexity": used,
        "usage": used / len(counts),
        "dead": (counts == 0).nonzero()[:, 0].tolist(),
        "cluster_sizes": counts.tolist(),
    }
