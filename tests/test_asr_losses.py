"""Losses of the heads against sums over every path."""

import importlib.util
import math

import pytest
import torch

from tests.reference_asr import ctc_sums
from tests.reference_asr_losses import transducer_loss as every_path
from tests.toy_recognizer import toy_recognizer
from voxtok.asr.decoder import DecoderConfig
from voxtok.asr.losses import ctc_loss, full_transducer_loss, losses, pruned_transducer_loss
from voxtok.asr.padded import Padded, pad
from voxtok.asr.transducer import Joiner, SimpleJoiner, TransducerConfig
from voxtok.runtime.errors import MissingPart

needs_k2 = pytest.mark.skipif(importlib.util.find_spec("k2") is None, reason="k2 is not installed")


@pytest.mark.parametrize("seed", range(4))
def test_ctc_is_the_sum_over_all_paths(seed: int) -> None:
    torch.manual_seed(seed)
    log_probs = torch.randn(2, 5, 4).log_softmax(dim=-1)
    texts = pad([torch.tensor([1, 1, 3]), torch.tensor([2])])
    found = ctc_loss(log_probs, torch.tensor([5, 3]), texts)
    assert found[0].item() == pytest.approx(-ctc_sums(log_probs[0].tolist())[1, 1, 3], abs=1e-4)
    assert found[1].item() == pytest.approx(-ctc_sums(log_probs[1, :3].tolist())[(2,)], abs=1e-4)


def test_ctc_without_a_path_is_infinite() -> None:
    """1 1 needs a blank in between: three frames."""
    log_probs = torch.zeros(1, 2, 3).log_softmax(dim=-1)
    assert math.isinf(ctc_loss(log_probs, torch.tensor([2]), pad([torch.tensor([1, 1])])).item())


@pytest.mark.parametrize("seed", range(4))
def test_the_transducer_is_the_sum_over_all_paths(seed: int) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(2, 4, 4, 5)
    texts = pad([torch.tensor([1, 2, 2]), torch.tensor([4])])
    found = full_transducer_loss(logits, torch.tensor([4, 2]), texts)
    log_probs = logits.log_softmax(dim=-1).tolist()
    assert found[0].item() == pytest.approx(every_path(log_probs[0], [1, 2, 2]), abs=1e-4)
    assert found[1].item() == pytest.approx(every_path([row[:2] for row in log_probs[1][:2]], [4]), abs=1e-4)


def test_transducer_worked_by_hand() -> None:
    """One frame, text 1: emit 1, then blank. Probabilities 1/2 each: -log(1/4)."""
    found = full_transducer_loss(torch.zeros(1, 1, 2, 2), torch.tensor([1]), pad([torch.tensor([1])]))
    assert found.item() == pytest.approx(math.log(4), abs=1e-5)


def test_the_decoders_loss_is_that_of_its_steps() -> None:
    """Cross-entropy of teacher forcing equals minus the sum of the log-probabilities that a search adds up."""
    recognizer = toy_recognizer(decoder=DecoderConfig(blocks=2, heads=2, inner=32), ctc_weight=0.0)
    ends = recognizer.text.sos_eos
    encoded = Padded(torch.randn(2, 6, 32), torch.tensor([6, 4]))
    texts = [torch.tensor([3, 4, 4]), torch.tensor([5])]
    found = losses(recognizer, encoded, pad(texts), smoothing=0.0)["attention"]
    for row, text in enumerate(texts):
        alone = Padded(encoded.values[row : row + 1, : int(encoded.lengths[row])], encoded.lengths[row : row + 1])
        state, total, before = recognizer.attention_start(alone), 0.0, ends
        for piece in [*text.tolist(), ends]:
            log_probs, state = recognizer.attention_step(torch.tensor([before]), state)
            total += log_probs[0, piece].item()
            before = piece
        assert found[row].item() == pytest.approx(-total, abs=1e-4)


def test_label_smoothing_mixes_in_the_mean_over_all_pieces() -> None:
    recognizer = toy_recognizer(decoder=DecoderConfig(blocks=1, heads=2, inner=32), ctc_weight=0.0)
    assert recognizer.decoder is not None
    encoded, text = Padded(torch.randn(1, 3, 32), torch.tensor([3])), torch.tensor([[4, 5]])
    ends = recognizer.text.sos_eos
    logits = recognizer.decoder(encoded, torch.tensor([[ends, 4, 5]])).log_softmax(dim=-1)[0]
    sharp = -(logits[0, 4] + logits[1, 5] + logits[2, ends])
    even = -logits.mean(dim=1).sum()
    found = losses(recognizer, encoded, Padded(text, torch.tensor([2])), smoothing=0.1)["attention"]
    assert found.item() == pytest.approx((0.9 * sharp + 0.1 * even).item(), rel=1e-4)


def test_the_heads_share_the_loss_by_ctc_weight() -> None:
    recognizer = toy_recognizer(transducer=TransducerConfig(history=2, width=16), ctc_weight=0.3)
    found = losses(recognizer, Padded(torch.randn(1, 5, 32), torch.tensor([5])), pad([torch.tensor([3, 4])]), 0.0)
    assert found["loss"].item() == pytest.approx((0.3 * found["ctc"] + 0.7 * found["transducer"]).item(), rel=1e-5)


def pruned(prune_range: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The pruned loss and the full one of the same networks."""
    torch.manual_seed(0)
    config = TransducerConfig(history=2, width=8, loss="pruned", prune_range=prune_range)
    joiner, simple = Joiner(config, 6, 5), SimpleJoiner(config, 6, 5)
    encoded, predicted = Padded(torch.randn(2, 6, 6), torch.tensor([6, 5])), torch.randn(2, 4, 8)
    texts = pad([torch.tensor([1, 2, 3]), torch.tensor([4, 4])])
    first = simple(encoded.values, predicted)
    found = pruned_transducer_loss(first, joiner, encoded, predicted, texts, prune_range)
    logits = joiner(encoded.values[:, :, None], predicted[:, None])
    return found, full_transducer_loss(logits.float(), encoded.lengths, texts)


@needs_k2
def test_the_pruned_loss_with_a_wide_range_holds_the_full_one() -> None:
    """With every place of the text kept, the second pass is the full lattice; the first pass adds a positive share."""
    found, full = pruned(prune_range=4)
    assert (found >= full - 1e-3).all()


class EveryPlace:
    """Stands for k2 with a range as wide as the texts, and notes whether matrix products of its losses were halved."""

    def __init__(self) -> None:
        self.halved: list[bool] = []

    def rnnt_loss_smoothed(self, *, symbols: torch.Tensor, **_: object) -> object:
        self.halved.append(torch.is_autocast_enabled("cpu"))
        return torch.zeros(len(symbols)), (None, None)

    def get_rnnt_prune_ranges(self, *_: object) -> None:
        return None

    def do_rnnt_pruning(self, *, am: torch.Tensor, lm: torch.Tensor, ranges: None) -> tuple[torch.Tensor, torch.Tensor]:
        return am[:, :, None], lm[:, None]

    def rnnt_loss_pruned(
        self, logits: torch.Tensor, numbers: torch.Tensor, _: None, blank: int, boundary: torch.Tensor, reduction: str
    ) -> torch.Tensor:
        self.halved.append(torch.is_autocast_enabled("cpu"))
        return full_transducer_loss(logits, boundary[:, 3], Padded(numbers, boundary[:, 2]))


def test_k2_computes_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The joiner in between takes what training takes, and with every place kept the loss is the full one."""
    stand_in = EveryPlace()
    monkeypatch.setattr("voxtok.asr.losses.load_k2", lambda: stand_in)
    with torch.autocast("cpu", torch.bfloat16):
        found, full = pruned(prune_range=4)
        assert torch.is_autocast_enabled("cpu")
    assert stand_in.halved == [False, False]
    torch.testing.assert_close(found, full, rtol=0.05, atol=0.05)


@pytest.mark.skipif(importlib.util.find_spec("k2") is not None, reason="k2 is installed")
def test_without_k2_the_pruned_loss_says_where_it_comes_from() -> None:
    with pytest.raises(MissingPart, match="k2-fsa"):
        pruned(prune_range=4)
