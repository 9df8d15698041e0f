"""The speaker probe: as scikit-learn's logistic regression, chance without information, certainty with it."""

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import LogisticRegression

from voxtok.runtime.errors import ConfigError
from voxtok.tokenize.leakage import WEIGHT_DECAY, fit_probe, speaker_leakage


def utterances(
    voices: npt.NDArray[np.float64], each: int, tokens: int, seed: int = 0
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Histograms of `each` utterances of `tokens` tokens for every row of (S, K) token probabilities."""
    rng = np.random.default_rng(seed)
    names = [f"s{i}" for i in range(len(voices)) for _ in range(each)]
    return np.concatenate([rng.multinomial(tokens, voice, size=each) for voice in voices]), names


def test_tokens_that_name_the_speaker_leak_everything() -> None:
    histograms, names = utterances(np.eye(4, 10), each=5, tokens=50)
    found = speaker_leakage(histograms, names, folds=5, seed=0)
    assert found is not None
    assert (found.accuracy, found.chance) == (1.0, 0.25)
    assert (found.speakers, found.utterances, found.left_out, found.folds) == (4, 20, 0, 5)


def test_equal_voices_are_at_chance() -> None:
    histograms, names = utterances(np.full((5, 20), 1 / 20), each=40, tokens=100)
    found = speaker_leakage(histograms, names, folds=5, seed=0)
    assert found is not None and abs(found.accuracy - found.chance) < 0.1


def test_held_out_utterances_are_not_seen() -> None:
    """Each utterance has tokens of its own: a probe that saw them would be perfect, one that did not can only guess."""
    names = [f"s{i % 4}" for i in range(40)]
    found = speaker_leakage(np.eye(40, dtype=np.int64) * 30, names, folds=4, seed=1)
    assert found is not None and found.accuracy <= 0.5


def test_frequent_speakers_weigh_no_more() -> None:
    rng = np.random.default_rng(3)
    histograms = rng.multinomial(50, np.full(8, 1 / 8), size=100)
    found = speaker_leakage(histograms, ["loud"] * 94 + ["a", "a", "b", "b", "c", "c"], folds=2, seed=0)
    assert found is not None and found.chance == 0.25 and found.accuracy < 0.6  # 0.94 if utterances counted


def test_speakers_of_one_utterance_are_left_out() -> None:
    histograms, names = utterances(np.eye(3, 6), each=2, tokens=10)
    alone = speaker_leakage(np.vstack([histograms, histograms[:1]]), [*names, "once"], folds=5, seed=0)
    assert alone is not None and (alone.speakers, alone.utterances, alone.left_out) == (3, 6, 1)
    assert speaker_leakage(histograms[:3], ["a", "b", "c"], folds=5, seed=0) is None
    assert speaker_leakage(histograms[:0], [], folds=5, seed=0) is None


def test_the_seed_decides_the_folds() -> None:
    rng = np.random.default_rng(5)
    histograms, names = utterances(rng.dirichlet(np.ones(10), size=6), each=6, tokens=12)
    scores = [speaker_leakage(histograms, names, folds=3, seed=seed) for seed in (0, 0, 1)]
    assert scores[0] == scores[1] and scores[0] != scores[2]


def test_probe_is_scikit_learns_logistic_regression() -> None:
    rng = np.random.default_rng(7)
    labels = np.repeat([0, 1, 2], [30, 20, 10])
    features = rng.normal(size=(60, 5)) + labels[:, None]
    probe = fit_probe(features, labels)
    peer = LogisticRegression(C=1 / (WEIGHT_DECAY * 60), class_weight="balanced", tol=1e-10, max_iter=10000)
    peer.fit(features, labels)
    shares = (features @ probe.weight.numpy().T + probe.bias.numpy()).astype(float)
    expected = peer.decision_function(features)
    np.testing.assert_allclose(
        shares - shares.mean(axis=1, keepdims=True), expected - expected.mean(axis=1, keepdims=True), atol=0.02
    )


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2 folds"):
        speaker_leakage(np.ones((4, 3), dtype=np.int64), ["a", "a", "b", "b"], folds=1, seed=0)
    with pytest.raises(ConfigError, match="one speaker for each"):
        speaker_leakage(np.ones((4, 3), dtype=np.int64), ["a"], folds=2, seed=0)
