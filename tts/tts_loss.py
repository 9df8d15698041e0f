"""What a text-to-token model is trained on: cross-entropy of the tokens, squared errors of log durations."""

import torch
import torch.nn.functional as F

from voxtok.tts.network import TtsNetwork
from voxtok.tts.tts_batches import TtsBatch

NAMES = ("tokens", "token_count", "hits", "duration", "symbols", "duration_error", "frames", "rows")
"""Of the sums in `terms`:

tokens          cross-entropy in nats, over token_count tokens that were not given; hits are right
duration        squared errors of log(1 + rows), over symbols; duration_error is the sum of |predicted - true| rows
frames          likewise squared errors of log(1 + frames) of merged rows, over rows
"""


def terms(network: TtsNetwork, batch: TtsBatch) -> torch.Tensor:
    """Sums over a batch, (8,) in the order of NAMES."""
    hidden = network.encode(batch.ids, batch.speaker)
    logs = network.log_durations(hidden, batch.ids)
    symbols = batch.ids > 0
    wanted = batch.durations.float()
    missed = (logs.expm1().clamp_min(0) - wanted).abs()
    rows = network.expand(hidden, batch.durations)
    hidden_tokens = rows.inside[..., None].expand_as(batch.codes)
    codes = None
    if network.tokens is not None:
        hidden_tokens = hidden_tokens & (batch.masks >= batch.given[:, None, None])
        codes = batch.codes.where(~hidden_tokens, network.masks(rows))
    guess = network.guess(rows, codes)
    nats, hits = logs.new_zeros(()), logs.new_zeros(())
    for stream, logits in enumerate(guess.logits):
        chosen = hidden_tokens[..., stream]
        targets = batch.codes[..., stream][chosen]
        nats = nats + F.cross_entropy(logits[chosen], targets, reduction="sum")
        hits = hits + (logits[chosen].argmax(dim=-1) == targets).sum()
    frames = logs.new_zeros(())
    if guess.log_frames is not None:
        frames = (guess.log_frames - batch.frames.float().log1p()).square()[rows.inside].sum()
    return torch.stack(
        [
            nats,
            hidden_tokens.sum().to(nats),
            hits,
            (logs - wanted.log1p()).square()[symbols].sum(),
            symbols.sum().to(nats),
            missed[symbols].sum(),
            frames,
            rows.inside.sum().to(nats),
        ]
    )
