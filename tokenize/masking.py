"""Span masks for masked prediction: starts are drawn without replacement, spans may overlap (Baevski et al. 2020)."""

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


def span_mask(num_frames: int, *, share: float, span_frames: int, rng: np.random.Generator) -> Mask:
    """Which frames of one utterance are masked.

    Args:
        num_frames: of the utterance.
        share: spans drawn are `share * num_frames / span_frames`, rounded; as they overlap, fewer frames are masked
            (HuBERT's 0.8 masks about half of them).
        span_frames: of each span; a shorter utterance is one span less one frame, so that something stays visible.
        rng: what draws.

    Returns:
        (num_frames,) with at least one frame masked where there are two.
    """
    mask = np.zeros(num_frames, dtype=np.bool_)
    span = min(span_frames, num_frames - 1)
    if span < 1:
        return mask
    places = num_frames - span + 1
    spans = min(places, max(1, round(share * num_frames / span_frames)))
    starts = rng.choice(places, spans, replace=False)
    mask[(starts[:, None] + np.arange(span)).ravel()] = True
    return mask
