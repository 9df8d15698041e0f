"""Losses of the heads, one number an utterance: negative log-likelihood, with label smoothing for the decoder."""

import importlib
from typing import Any

import torch
import torch.nn.functional as F
import torchaudio

from voxtok.asr.padded import Padded
from voxtok.asr.recognizer import Recognizer
from voxtok.asr.text import BLANK
from voxtok.asr.transducer import Joiner
from voxtok.runtime.errors import MissingPart

IGNORED = -100
SIMPLE_WEIGHT = 0.5  # of the pruned loss's first pass, as icefall has it
SMOOTHED_BY_PREDICTOR = 0.25  # share of the first pass's predictor-only model, as icefall has it


def losses(recognizer: Recognizer, encoded: Padded, texts: Padded, smoothing: float) -> dict[str, torch.Tensor]:
    """(B,) losses of every head by name, and "loss": their sum weighted by `ctc_weight`.

    Args:
        recognizer: whose heads are trained.
        encoded: (B, T, D) frames of `recognizer.encode`.
        texts: (B, S) numbers of the text model.
        smoothing: share of probability that the decoder's targets spread over all pieces.
    """
    config = recognizer.config
    found: dict[str, torch.Tensor] = {}
    if recognizer.ctc is not None:
        found["ctc"] = ctc_loss(recognizer.ctc_log_probs(encoded), encoded.lengths, texts)
    if recognizer.decoder is not None:
        found["attention"] = attention_loss(recognizer, encoded, texts, smoothing)
    if recognizer.joiner is not None:
        found["transducer"] = transducer_loss(recognizer, encoded, texts)
    weights = {"ctc": config.ctc_weight, "attention": 1 - config.ctc_weight, "transducer": 1 - config.ctc_weight}
    return {"loss": torch.stack([weights[name] * loss for name, loss in found.items()]).sum(dim=0), **found}


def ctc_loss(log_probs: torch.Tensor, lengths: torch.Tensor, texts: Padded) -> torch.Tensor:
    """(B,) negative log-likelihood of CTC (Graves et al. 2006); infinite where no path is long enough.

    Args:
        log_probs: (B, T, V) float32.
        lengths: (B,) frames of each.
        texts: (B, S) numbers.
    """
    return F.ctc_loss(log_probs.transpose(0, 1), texts.values, lengths, texts.lengths, blank=BLANK, reduction="none")


def attention_loss(recognizer: Recognizer, encoded: Padded, texts: Padded, smoothing: float) -> torch.Tensor:
    """(B,) cross-entropy of the text and its end, each predicted from the true pieces before it."""
    assert recognizer.decoder is not None
    ends = recognizer.text.sos_eos
    numbers = texts.values.masked_fill(~texts.inside, ends)
    begun = F.pad(numbers, (1, 0), value=ends)  # sos t1 .. tS
    targets = F.pad(numbers, (0, 1), value=ends)  # t1 .. tS eos, eos beyond
    wanted = Padded(targets, texts.lengths + 1)
    logits = recognizer.decoder(encoded, begun).float()
    chosen = targets.masked_fill(~wanted.inside, IGNORED)
    losses = F.cross_entropy(
        logits.transpose(1, 2), chosen, ignore_index=IGNORED, label_smoothing=smoothing, reduction="none"
    )
    return losses.sum(dim=1)


def transducer_loss(recognizer: Recognizer, encoded: Padded, texts: Padded) -> torch.Tensor:
    """(B,) negative log-likelihood of the transducer (Graves 2012); with k2's pruning where the config says so."""
    config = recognizer.config.transducer
    assert config is not None and recognizer.predictor is not None and recognizer.joiner is not None
    history = F.pad(texts.zeroed(), (config.history, 0), value=BLANK)
    predicted = recognizer.predictor(history)  # (B, S + 1, P)
    if recognizer.simple is not None:
        simple = recognizer.simple(encoded.values, predicted)
        return pruned_transducer_loss(simple, recognizer.joiner, encoded, predicted, texts, config.prune_range)
    logits = recognizer.joiner(encoded.values[:, :, None], predicted[:, None])  # (B, T, S + 1, V)
    return full_transducer_loss(logits.float(), encoded.lengths, texts)


def full_transducer_loss(logits: torch.Tensor, lengths: torch.Tensor, texts: Padded) -> torch.Tensor:
    """(B,) loss over the whole lattice, from (B, T, S + 1, V) logits; torchaudio's."""
    found: torch.Tensor = torchaudio.functional.rnnt_loss(
        logits,
        texts.zeroed().int(),
        lengths.int(),
        texts.lengths.int(),
        blank=BLANK,
        reduction="none",
    )
    return found


def pruned_transducer_loss(
    simple: tuple[torch.Tensor, torch.Tensor],
    joiner: Joiner,
    encoded: Padded,
    predicted: torch.Tensor,
    texts: Padded,
    prune_range: int,
) -> torch.Tensor:
    """(B,) k2's pruned loss (Kuang et al. 2022): a first pass over the whole lattice, the joiner near its paths only.

    Args:
        simple: (B, T, V) and (B, S + 1, V) logits of the first pass.
        joiner: applied to `prune_range` places of the text at each frame.
        encoded: (B, T, D) frames.
        predicted: (B, S + 1, P) outputs of the predictor.
        texts: (B, S) numbers.
        prune_range: places of the text kept at each frame.

    Raises:
        MissingPart: k2 is not installed.
    """
    k2 = load_k2()
    exact = torch.autocast(encoded.values.device.type, enabled=False)  # k2 multiplies matrices of probabilities
    frames, pieces = simple[0].float(), simple[1].float()
    numbers = texts.zeroed()
    boundary = numbers.new_zeros(len(numbers), 4)
    boundary[:, 2], boundary[:, 3] = texts.lengths, encoded.lengths
    with exact:
        first, (of_pieces, of_frames) = k2.rnnt_loss_smoothed(
            lm=pieces,
            am=frames,
            symbols=numbers,
            termination_symbol=BLANK,
            lm_only_scale=SMOOTHED_BY_PREDICTOR,
            am_only_scale=0.0,
            boundary=boundary,
            reduction="none",
            return_grad=True,
        )
    ranges = k2.get_rnnt_prune_ranges(of_pieces, of_frames, boundary, prune_range)
    near_frames, near_pieces = k2.do_rnnt_pruning(am=joiner.frames(encoded.values), lm=predicted, ranges=ranges)
    logits = joiner.output(torch.tanh(near_frames + near_pieces)).float()
    with exact:
        second = k2.rnnt_loss_pruned(logits, numbers, ranges, BLANK, boundary, reduction="none")
    total: torch.Tensor = SIMPLE_WEIGHT * first + second
    return total


def load_k2() -> Any:
    """k2, which pip does not have for this torch.

    Raises:
        MissingPart: it is not installed; says where it comes from.
    """
    try:
        return importlib.import_module("k2")
    except (ImportError, OSError) as error:
        raise MissingPart(
            f"the pruned loss needs k2 ({error}): take the wheel for your torch from https://k2-fsa.github.io/k2, "
            "or set transducer.loss to full"
        ) from error
