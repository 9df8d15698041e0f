"""Centering: a loss that is small where crops of all voices and channels have their frames in the same place.

A voice shifts all frames of an utterance one way, out of the cluster that they would be in. Subtracting the utterance's
mean from its frames brings them back (van Niekerk et al. 2021), but pauses shift the mean as well, and there is none
yet for the first frames of a stream. Here a model learns frames that need no correction.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from voxtok.runtime.distributed import Ranks
from voxtok.tokenize.train import Terms


@dataclass(frozen=True)
class Centering:
    """What share of the variance of frames lies between the means of crops, as a part of a loss.

    Attributes:
        weight: of the share in the loss; 0 leaves it out.
        vocab_size: frames are compared with those of the same token, such as speech with speech; of how many tokens.
        ranks: whose crops are compared with each other.
    """

    weight: float
    vocab_size: int
    ranks: Ranks

    def add(self, terms: Terms, frames: torch.Tensor, tokens: torch.Tensor) -> Terms:
        """Terms with the share in the loss, and by itself: of (B, F, width) frames with (B, F) tokens."""
        if not self.weight:
            return terms
        loss, count = terms["loss"]
        part = self.part(frames.float(), tokens)
        over = self.ranks.all_reduce(count.clone())  # what the loss is divided by
        one = torch.full_like(part, 1 / self.ranks.world_size)
        return terms | {"loss": (loss + self.weight * over * part, count), "share_of_means": (part, one)}

    def part(self, frames: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """This rank's part of the share: those of all ranks add up to it.

        Its gradient is that of the means alone: the share could also fall as other variance grows, which helps no one.

        Worked: frames of one dimension and one token, -1 1 in one crop and 1 3 in another. The means are 0 and 2, the
        centre is 1: of the squared distances to it, 4 + 0 + 0 + 4, half are those of the means, 1 for each frame.

        Args:
            frames: (B, F, width) float32 of B crops.
            tokens: (B, F) int64, 0 .. vocab_size - 1.
        """
        kinds = F.one_hot(tokens, self.vocab_size).to(frames.dtype)
        count = kinds.sum(dim=1)[..., None]  # (B, K, 1)
        with torch.autocast(frames.device.type, enabled=False):
            sums = kinds.transpose(1, 2) @ frames  # (B, K, width)
        whole = self.ranks.all_reduce(torch.cat([sums.detach().sum(dim=0), count.sum(dim=0)], dim=1))
        # Of all points the centre has the least squares: no gradient comes through it.
        centre = whole[:, :-1] / whole[:, -1:].clamp_min(1)  # (K, width)
        between = (count * (sums / count.clamp_min(1) - centre).square()).sum()
        spread = (frames.detach() - centre[tokens]).square().sum()
        of_all = self.ranks.all_reduce(torch.stack([between.detach(), spread]))
        total = of_all[1].clamp_min(1e-9)
        slope = between / total
        return of_all[0] / total / self.ranks.world_size + (slope - slope.detach())
