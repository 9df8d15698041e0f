"""The share of the variance of frames that lies between the means of crops."""

import pytest
import torch

from voxtok.runtime.distributed import Ranks
from voxtok.tokenize.centering import Centering

ONE = Centering(weight=2.0, vocab_size=1, ranks=Ranks())
TWO = Centering(weight=2.0, vocab_size=2, ranks=Ranks())


def test_the_share_of_the_worked_example_and_its_place_in_the_loss() -> None:
    frames, tokens = torch.tensor([[[-1.0], [1.0]], [[1.0], [3.0]]]), torch.zeros(2, 2, dtype=torch.int64)
    assert ONE.part(frames, tokens).item() == pytest.approx(0.5)
    terms = ONE.add({"loss": (torch.tensor(7.0), torch.tensor(3))}, frames, tokens)
    assert [terms["loss"][0].item(), terms["loss"][1].item()] == [7 + 2 * 3 * 0.5, 3]
    assert [number.item() for number in terms["share_of_means"]] == [0.5, 1]


def test_frames_are_compared_with_those_of_the_same_token() -> None:
    """Crops of two thirds speech and of one third: their means differ, those of speech and of pauses do not."""
    tokens = torch.tensor([[0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1]])
    frames = (5.0 * tokens + torch.tensor([-1, 1, -1, 1, -1, 1]))[..., None]
    assert TWO.part(frames, tokens).item() == pytest.approx(0, abs=1e-6)
    assert ONE.part(frames, torch.zeros_like(tokens)).item() > 0.05
    moved = frames + torch.tensor([0.0, 1.0])[:, None, None]
    assert TWO.part(moved, tokens).item() > 0.1


def test_its_gradient_is_that_of_the_means_written_out() -> None:
    torch.manual_seed(0)
    frames, tokens = torch.randn(3, 20, 4, dtype=torch.float64, requires_grad=True), torch.randint(2, (3, 20))
    between = spread = torch.zeros((), dtype=torch.float64)
    for token in range(2):
        centre = frames[tokens == token].mean(dim=0)
        for crop, of_crop in zip(frames, tokens, strict=True):
            mine = crop[of_crop == token]
            between = between + len(mine) * (mine.mean(dim=0) - centre).square().sum()
            spread = spread + (mine - centre).square().sum()
    (expected,) = torch.autograd.grad(between / spread.detach(), frames)
    part = TWO.part(frames, tokens)
    (found,) = torch.autograd.grad(part, frames)
    assert part.item() == pytest.approx((between / spread).item())
    torch.testing.assert_close(found, expected)


def test_one_crop_has_nothing_to_differ_from() -> None:
    frames = torch.randn(1, 9, 4, requires_grad=True)
    assert ONE.part(frames, torch.zeros(1, 9, dtype=torch.int64)).item() == pytest.approx(0, abs=1e-6)
    assert ONE.part(torch.ones(2, 9, 4), torch.zeros(2, 9, dtype=torch.int64)).item() == 0
