"""`voxtok distill`: any upstream -> a small HuBERT model, by heads that predict layers of the teacher (DistilHuBERT).

Chang et al. 2022: each head predicts one layer, by L1 distance and cosine similarity. A filter bank is a teacher too:
with `block: 0` the convolutional front alone learns to be one, in minutes, before pre-training begins from it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import HubertModel

from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.identity import inputs_of
from voxtok.runtime.config import parse
from voxtok.runtime.distributed import Ranks, connected_ranks, pick_device
from voxtok.runtime.errors import ConfigError
from voxtok.runtime.files import weights_hash
from voxtok.tokenize.crops import CENTRE_SAMPLES, RATE, Batch, Corpus, CropConfig, read_utterances
from voxtok.tokenize.load import load_upstream
from voxtok.tokenize.student import Shape, architecture_of, hidden_frames, start_model
from voxtok.tokenize.train import IRRELEVANT, Terms, TrainConfig, Trainee, train
from voxtok.tokenize.upstream import Upstream

EPSILON = 1e-5  # of the normalisation of the teacher's frames


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Train a small HuBERT model to predict layers of an upstream."""

    cuts: str
    """Lhotse cuts, recordings or Shar folder."""
    teacher: str
    """mfcc, logmel, a Hugging Face folder or id[@revision], or torchaudio:NAME[=checkpoint]."""
    layers: tuple[int, ...]
    """Layers of the teacher, each predicted by a head of its own (DistilHuBERT takes 4, 8 and 12 of 12)."""
    out: str
    """Folder to write; the model is in out/model."""
    model: Shape
    """Shape of the student."""
    crops: CropConfig
    """How batches are drawn and disguised; the teacher hears them undisguised. Nothing is masked."""
    train: TrainConfig
    """Steps, learning rate, reports, checkpoints."""
    block: int
    """The student's block that the heads look at; 0 is its front, and nothing above is computed."""
    cosine_weight: float = 1.0
    """Weight of the cosine loss beside L1."""
    init: str | None = None
    """A checkpoint folder of the student's shape that the weights come from; null begins at random."""
    memory_gb: float = 16.0
    """Audio kept in memory (115 MB an hour); the rest is read from disk for every crop."""
    seed: int = 0
    """Of weights, dropout, crops and disguises."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""

    def __post_init__(self) -> None:
        if not self.layers:
            raise ConfigError("layers needs at least one layer of the teacher")
        if not 0 <= self.block <= self.model.blocks:
            raise ConfigError(f"block must be within 0 .. {self.model.blocks}")


class Heads(torch.nn.Module):
    """One linear prediction of the teacher's frames for each of its layers."""

    def __init__(self, width: int, teacher_width: int, layers: int) -> None:
        super().__init__()
        self.outputs = torch.nn.ModuleList([torch.nn.Linear(width, teacher_width) for _ in range(layers)])

    def forward(self, frames: torch.Tensor) -> list[torch.Tensor]:
        """(B, F, teacher_width) for each layer from (B, F, width)."""
        return [output(frames).float() for output in self.outputs]


def teacher_frames(
    teacher: Upstream, waveforms: torch.Tensor, layers: Sequence[int], centres: torch.Tensor
) -> list[torch.Tensor]:
    """The teacher's frames nearest to the student's, each dimension normalised over the crop as in data2vec.

    Args:
        teacher: what is imitated.
        waveforms: (B, T) of equal length.
        layers: of the teacher.
        centres: (F,) samples at which the student's frames are centred.
    """
    if not len(waveforms):  # a rank without a crop of a small batch
        return [waveforms.new_zeros(0, len(centres), teacher.width) for _ in layers]
    lengths = torch.full((len(waveforms),), waveforms.shape[1], device=waveforms.device)
    with torch.no_grad(), torch.autocast(waveforms.device.type, enabled=False):  # teachers have a dtype of their own
        features, frames = teacher.extract(waveforms, lengths, layers)
        nearest = ((centres - CENTRE_SAMPLES) / teacher.hop_samples).round().long().clamp(0, int(frames[0]) - 1)
        found = [features[layer][:, nearest] for layer in layers]
        return [
            (frames - frames.mean(dim=1, keepdim=True)) / (frames.std(dim=1, keepdim=True) + EPSILON)
            for frames in found
        ]


def imitation(
    model: HubertModel,
    heads: Heads,
    teacher: Upstream,
    layers: Sequence[int],
    block: int,
    cosine_weight: float,
    batch: Batch,
) -> Terms:
    """L1 distance (a mean over dimensions) minus the log-sigmoid of the cosine, a mean over layers; sums of frames."""
    (hidden,) = hidden_frames(model, batch.waveforms, None, (block,))
    shape = architecture_of(model)
    centres = torch.arange(hidden.shape[1], device=hidden.device) * shape.hop_samples + shape.min_samples / 2
    targets = teacher_frames(teacher, batch.clean, layers, centres)
    predictions = heads(hidden)
    l1 = torch.stack([(p - t).abs().mean(-1).sum() for p, t in zip(predictions, targets, strict=True)]).mean()
    cosine = torch.stack([F.cosine_similarity(p, t, dim=-1) for p, t in zip(predictions, targets, strict=True)])
    count = torch.tensor(hidden.shape[0] * hidden.shape[1], device=hidden.device)
    loss = l1 - cosine_weight * F.logsigmoid(cosine).mean(dim=0).sum()
    return {"loss": (loss, count), "l1": (l1, count), "cosine": (cosine.mean(dim=0).sum(), count)}


def distill(config: DistillConfig, ranks: Ranks | None = None) -> Path:
    """Train a student and write its folder, or go on where a killed run stopped; a finished one is left as it is.

    Returns:
        The checkpoint folder, out/model.

    Raises:
        ConfigError: a layer that the teacher lacks, a teacher of another sampling rate, or `out` holds a run of another
            configuration.
    """
    device = pick_device(config.device)
    teacher = load_upstream(config.teacher, device=device, max_layer=max(config.layers))
    if teacher.sampling_rate != RATE:
        raise ConfigError(f"{config.teacher} hears {teacher.sampling_rate} Hz; take a teacher of {RATE} Hz")
    corpus = Corpus(read_utterances(((cut, ()) for cut in load_cuts(config.cuts)), config.memory_gb), (), ())
    torch.manual_seed(config.seed)
    model = start_model(config.model, config.init, device)
    heads = Heads(config.model.width, teacher.width, len(config.layers)).to(device)
    terms = partial(imitation, model, heads, teacher, config.layers, config.block, config.cosine_weight)
    identity = asdict(config) | {
        "cuts": [inputs_of(utterance.cut) for utterance in corpus.utterances],
        "teacher": teacher.identity,
        "init": weights_hash(config.init),
        **IRRELEVANT,
    }
    return train(
        Trainee(model, heads, terms),
        corpus,
        Path(config.out),
        identity,
        config.crops,
        config.train,
        config.seed,
        ranks or Ranks(),
    )


def main(argv: Sequence[str]) -> int:
    """`voxtok distill --config FILE --cuts CUTS --teacher NAME --out FOLDER`."""
    with connected_ranks() as ranks:
        print(distill(parse(DistillConfig, argv, "voxtok distill"), ranks))
    return 0
