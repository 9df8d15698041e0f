"""Speaker leakage: how well the speaker is told from which tokens an utterance uses.

A linear probe on token histograms, in the way of Adi et al. 2019 and of the probes of textlesslib (Kharitonov et al.
2022). Tokens meant for content should leave it near chance; tokens meant for voices should not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from voxtok.runtime.errors import ConfigError

WEIGHT_DECAY = 1e-3  # of the probe; the mean cross-entropy is of order 1
STEPS = 100


@dataclass(frozen=True)
class Leakage:
    """Cross-validated speaker classification; lower is better for content tokens.

    Attributes:
        accuracy: mean over speakers of the share of their held-out utterances that are recognised.
        chance: 1 / speakers, the same without any information.
        speakers: with at least two utterances.
        utterances: of those speakers.
        left_out: utterances whose speaker has no other.
        folds: of the cross-validation.
    """

    accuracy: float
    chance: float
    speakers: int
    utterances: int
    left_out: int
    folds: int


def speaker_leakage(
    histograms: npt.NDArray[np.integer], speakers: Sequence[str], *, folds: int, seed: int
) -> Leakage | None:
    """Classify held-out utterances by speaker from their token histograms.

    The classifier is multinomial logistic regression on the square roots of relative frequencies, each speaker weighing
    the same; every utterance is held out once.

    Args:
        histograms: (U, K) how often each utterance uses each token.
        speakers: (U,) of each utterance.
        folds: at least 2.
        seed: of the partition into folds.

    Returns:
        None where fewer than two speakers have two utterances.

    Raises:
        ConfigError: folds below 2, or as many speakers as histograms are not given.
    """
    if folds < 2 or len(speakers) != len(histograms):
        raise ConfigError("speaker leakage needs at least 2 folds and one speaker for each histogram")
    _, of_utterance, counts = np.unique(np.array(speakers), return_inverse=True, return_counts=True)
    keep = counts[of_utterance] > 1
    if np.count_nonzero(counts > 1) < 2:
        return None
    _, labels = np.unique(of_utterance[keep], return_inverse=True)  # 0 .. S - 1 of those kept
    features = _features(histograms[keep])
    fold_of = _stratified(labels, folds, seed)
    right = np.zeros(len(labels))
    for fold in np.unique(fold_of):
        held_out = fold_of == fold
        probe = fit_probe(features[~held_out], labels[~held_out])
        right[held_out] = _predict(probe, features[held_out]) == labels[held_out]
    by_speaker = np.bincount(labels, weights=right) / np.bincount(labels)
    return Leakage(
        accuracy=float(by_speaker.mean()),
        chance=1 / len(by_speaker),
        speakers=len(by_speaker),
        utterances=len(labels),
        left_out=len(speakers) - len(labels),
        folds=len(np.unique(fold_of)),
    )


def _features(histograms: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Square roots of relative frequencies, scaled so that the vocabulary's size does not change their spread."""
    share = histograms / np.maximum(histograms.sum(axis=1, keepdims=True), 1)
    roots: npt.NDArray[np.float64] = np.sqrt(share) * np.sqrt(histograms.shape[1])
    return roots


def _stratified(labels: npt.NDArray[np.int64], folds: int, seed: int) -> npt.NDArray[np.int64]:
    """A fold for each utterance; those of one speaker are spread over as many folds as they can."""
    rng = np.random.default_rng(seed)
    fold_of = np.empty(len(labels), dtype=np.int64)
    for speaker in range(int(labels.max()) + 1):
        mine = rng.permutation(np.flatnonzero(labels == speaker))
        fold_of[mine] = (np.arange(len(mine)) + rng.integers(folds)) % folds
    return fold_of


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear classifier: (S, K) weights, (S,) biases."""

    weight: torch.Tensor
    bias: torch.Tensor


def fit_probe(features: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> Probe:
    """Multinomial logistic regression: the minimum of mean balanced cross-entropy + WEIGHT_DECAY / 2 * |weight|^2.

    Deterministic: full batch, from zero, by L-BFGS in float64.
    """
    x, y = torch.from_numpy(features), torch.from_numpy(labels)
    counts = torch.bincount(y)
    each = (len(y) / (len(counts) * counts)).double()
    weight = torch.zeros(len(counts), x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(counts), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        losses = torch.nn.functional.cross_entropy(x @ weight.T + bias, y, reduction="none")
        loss = (losses * each[y]).mean() + WEIGHT_DECAY / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return Probe(weight.detach(), bias.detach())


def _predict(probe: Probe, features: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    scores = torch.from_numpy(features) @ probe.weight.T + probe.bias
    return scores.argmax(dim=1).numpy()
