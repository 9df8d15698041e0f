"""Frames like those of a self-supervised speech model, where none can be had: a hierarchy of means in time.

Phones have variants, of which a segment of a few frames holds one. Speakers and channels shift the frames of an
utterance in a few directions, noise is correlated in time, and all spectra fall off.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

PHONES, VARIANTS = 40, 16
SPEAKER_DIRECTIONS = 32
UTTERANCE_FRAMES = 400
NOISE_CORRELATION = 0.6
"""Of a frame's noise with the noise of the frame before."""
SHARES = {"phone": 0.30, "variant": 0.22, "speaker": 0.08, "noise": 0.40}
"""Of the variance."""
BLOCK_UTTERANCES = 64

Frames = npt.NDArray[np.float32]


class World:
    """The means that all frames come from; one world for a width."""

    def __init__(self, width: int) -> None:
        rng = np.random.default_rng(12345)
        phones = _directions(rng, (PHONES, 1), width, "phone", 0.8)
        variants = _directions(rng, (PHONES, VARIANTS), width, "variant", 0.7)
        self.means = (phones + variants).reshape(-1, width)
        self.frequencies = rng.dirichlet(np.full(len(self.means), 0.7))
        self.speakers = _directions(rng, (SPEAKER_DIRECTIONS,), width, "speaker", 0.5) / SPEAKER_DIRECTIONS**0.5
        self.noise = _spectrum(rng, width, 0.45) * np.float32((width * SHARES["noise"]) ** 0.5)
        self.offset = 0.5 * rng.standard_normal(width, dtype=np.float32)
        mirrors = rng.standard_normal((3, width), dtype=np.float32)
        self.mirrors = mirrors / np.linalg.norm(mirrors, axis=1, keepdims=True)

    def draw(self, num_utterances: int, rng: np.random.Generator) -> Frames:
        """(num_utterances * UTTERANCE_FRAMES, width) frames."""
        num_frames, width = num_utterances * UTTERANCE_FRAMES, self.means.shape[1]
        segments = rng.choice(len(self.means), num_frames, p=self.frequencies)
        frames = self.means[np.repeat(segments, 1 + rng.poisson(4, num_frames))[:num_frames]]
        speakers = rng.standard_normal((num_utterances, SPEAKER_DIRECTIONS), dtype=np.float32) @ self.speakers
        noise = rng.standard_normal((num_frames, width), dtype=np.float32)
        for now in range(1, num_frames):
            noise[now] += NOISE_CORRELATION * noise[now - 1]
        frames += self.offset + noise * self.noise * np.float32((1 - NOISE_CORRELATION**2) ** 0.5)
        frames += np.repeat(speakers, UTTERANCE_FRAMES, axis=0)
        for mirror in self.mirrors:  # no direction is an axis
            frames -= 2 * (frames @ mirror)[:, None] * mirror
        return frames


def write_frames(path: Path, num_frames: int, width: int, seed: int) -> None:
    """Write (num_frames, width) float32 to an .npy file, in bounded memory."""
    world, rng = World(width), np.random.default_rng(seed)
    out = np.lib.format.open_memmap(path, "w+", np.float32, (num_frames, width))
    block = BLOCK_UTTERANCES * UTTERANCE_FRAMES
    for start in range(0, num_frames, block):
        part = out[start : start + block]
        part[:] = world.draw(BLOCK_UTTERANCES, rng)[: len(part)]
    out.flush()


def _directions(rng: np.random.Generator, shape: tuple[int, ...], width: int, share: str, power: float) -> Frames:
    scale = _spectrum(rng, width, power) * np.float32((width * SHARES[share]) ** 0.5)
    return rng.standard_normal((*shape, width), dtype=np.float32) * scale


def _spectrum(rng: np.random.Generator, width: int, power: float) -> Frames:
    """(width,) of norm 1 that falls off as a power, not quite in the order of the dimensions."""
    order = np.argsort(np.arange(width) + 16 * rng.standard_normal(width))
    spectrum = np.empty(width, np.float32)
    spectrum[order] = np.arange(1, width + 1) ** -power
    return spectrum / np.float32(np.linalg.norm(spectrum))
