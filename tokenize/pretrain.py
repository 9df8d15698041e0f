"""`voxtok pretrain`: token stores -> SSL model, by masked prediction (HuBERT, Hsu et al. 2021).

The first iteration predicts tokens of MFCC, the next ones tokens of a layer of the model before. Several stores give
several targets a frame; label stores (`voxtok label`) guide it where they know something. The result, out/model, is an
ordinary folder of transformers' HubertModel.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import HubertModel

from voxtok.manifests.store import TokenStore
from voxtok.runtime.config import parse
from voxtok.runtime.distributed import Ranks, connected_ranks, pick_device
from voxtok.runtime.errors import ConfigError
from voxtok.runtime.files import weights_hash
from voxtok.tokenize.centering import Centering
from voxtok.tokenize.crops import UNKNOWN, Batch, Corpus, CropConfig, load_corpus
from voxtok.tokenize.heads import Heads
from voxtok.tokenize.student import Shape, hidden_frames_and_raw, start_model
from voxtok.tokenize.train import IRRELEVANT, Terms, TrainConfig, Trainee, train


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pre-train a HuBERT model on the tokens of one or several stores."""

    stores: tuple[str, ...]
    """Token stores of one corpus, without dedup; each is a target."""
    labels: tuple[str, ...] = ()
    """Token stores that need not have every utterance, such as phones of synthetic speech from `voxtok label`: targets
    too, where they are known."""
    out: str
    """Folder to write; the model is in out/model."""
    model: Shape
    """Shape of the model."""
    crops: CropConfig
    """How batches are drawn, masked and disguised."""
    train: TrainConfig
    """Steps, learning rate, reports, checkpoints."""
    init: str | None = None
    """A checkpoint folder of the same shape that the weights come from; null begins at random."""
    frozen_front: bool = False
    """Leave the convolutions as `init` has them; they take no backward pass then."""
    unmasked_weight: float = 0.0
    """Weight of the loss on frames that are not masked; 0 is HuBERT's."""
    temperature: float = 0.0
    """Above 0, logits are cosines over it (HuBERT: 0.1), which makes frames of a target alike; 0 is linear."""
    supervised: tuple[int, ...] = ()
    """Blocks that targets are predicted from; empty is the last alone (ILS-SSL, Wang et al. 2022, adds others)."""
    centering: float = 0.0
    """Weight of a loss on what the means of crops differ by, among frames of one token of the first store, such as
    speech and pause: voices and channels, above all."""
    memory_gb: float = 16.0
    """Audio kept in memory (115 MB an hour); the rest is read from disk for every crop."""
    seed: int = 0
    """Of weights, dropout, crops, masks and disguises."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""

    def __post_init__(self) -> None:
        if not self.stores:
            raise ConfigError("stores needs at least one token store")
        if self.frozen_front and self.init is None:
            raise ConfigError("frozen-front needs init: random convolutions should learn")
        if self.temperature < 0 or self.centering < 0:
            raise ConfigError("temperature and centering must not be negative")
        if not all(1 <= block <= self.model.blocks for block in self.supervised):
            raise ConfigError(f"supervised blocks must be within 1 .. {self.model.blocks}")


def masked_prediction(
    model: HubertModel, heads: Heads, blocks: Sequence[int], unmasked_weight: float, centering: Centering, batch: Batch
) -> Terms:
    """Cross-entropy of the targets at masked frames, a mean over blocks and streams; others count by their weight.

    The accuracies are those of the last block and the first stream, whose tokens `centering` compares frames within.
    """
    hidden, raw = hidden_frames_and_raw(model, batch.waveforms, batch.mask, blocks)
    chosen = torch.ones_like(batch.mask) if unmasked_weight else batch.mask
    masked = batch.mask[chosen]  # (N,)
    weight = torch.where(masked, 1.0, unmasked_weight)
    targets = batch.targets[chosen]  # (N, streams)
    losses: list[torch.Tensor] = []
    streams: tuple[torch.Tensor, ...] = ()
    for streams in heads([frames[chosen] for frames in hidden]):
        losses += [
            (F.cross_entropy(logits, target, reduction="none", ignore_index=UNKNOWN) * weight).sum()
            for logits, target in zip(streams, targets.T, strict=True)
        ]
    hits = streams[0].argmax(dim=-1) == targets[:, 0]
    terms = {
        "loss": (torch.stack(losses).mean(), masked.sum()),
        "accuracy_masked": ((hits & masked).sum(), masked.sum()),
        "accuracy_unmasked": ((hits & ~masked).sum(), (~masked).sum()),
    }
    return centering.add(terms, raw, batch.targets[..., 0])


def build(config: PretrainConfig, corpus: Corpus, device: torch.device, ranks: Ranks) -> Trainee:
    """The model, its heads and their loss; the seed decides the weights."""
    torch.manual_seed(config.seed)
    blocks = config.supervised or (config.model.blocks,)
    model = start_model(config.model, config.init, device)
    if config.frozen_front:
        model.feature_extractor._freeze_parameters()  # as HubertForCTC.freeze_feature_encoder does
    heads = Heads(len(blocks), config.model.width, corpus.vocab_sizes, config.temperature).to(device)
    centering = Centering(config.centering, corpus.vocab_sizes[0], ranks)
    return Trainee(model, heads, partial(masked_prediction, model, heads, blocks, config.unmasked_weight, centering))


def pretrain(config: PretrainConfig, ranks: Ranks | None = None) -> Path:
    """Train a model and write its folder, or go on where a killed run stopped; a finished one is left as it is.

    Returns:
        The checkpoint folder, out/model.

    Raises:
        ConfigError: the stores have no utterance in common, or `out` holds a run of another configuration.
    """
    stores, labels = _opened(config.stores), _opened(config.labels)
    corpus = load_corpus(stores, labels, config.memory_gb)
    identity = asdict(config) | {
        "stores": [[store.fingerprint, store.made_of] for store in stores],
        "labels": [[store.fingerprint, store.made_of] for store in labels],
        "init": weights_hash(config.init),
        **IRRELEVANT,
    }
    ranks = ranks or Ranks()
    trainee = build(config, corpus, pick_device(config.device), ranks)
    return train(trainee, corpus, Path(config.out), identity, config.crops, config.train, config.seed, ranks)


def _opened(stores: Sequence[str]) -> list[TokenStore]:
    return [TokenStore.open(store) for store in stores]


def main(argv: Sequence[str]) -> int:
    """`voxtok pretrain --config FILE --stores "[STORE, ...]" --out FOLDER`."""
    with connected_ranks() as ranks:
        print(pretrain(parse(PretrainConfig, argv, "voxtok pretrain"), ranks))
    return 0
