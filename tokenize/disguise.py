"""Changes of a training crop that hide who speaks and where: speed, channel, equaliser, a lost band, noise, another
voice, a room.

Targets stay those of the undisturbed signal, so that a model learns to hear through the change. In the spirit of WavLM
(Chen et al. 2022: mixed voices), ContentVec (Qian et al. 2022: disguised voices) and HuBERT-AP (Gat et al. 2022).
NumPy throughout, about 1 ms for a second of audio: this runs inside the training loop.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voxtok.runtime.errors import ConfigError

Floats = npt.NDArray[np.float64]

EQUALIZER_NODES = 8
FRAME = 512  # samples, of spectra that are borrowed
SMOOTH_BINS = 9  # 280 Hz at 16 kHz: wider than a harmonic
LARGEST_DB = 25.0
QUIET_SHARE = 10  # one frame in so many is background noise
LOWER_DB = 20.0
WIDEST_BAND = 0.3  # of the frequency axis, whose places are square roots of frequencies
RT60_S = (0.1, 0.5)
TAIL = (0.2, 0.8)  # energy of the tail, of the direct path's


@dataclass(frozen=True, kw_only=True)
class Disguise:
    """How often and how strongly crops are changed; every chance is between 0 and 1."""

    speed: float = 0.0
    """Chance of another speed: pitch, formants and tempo together, so that a voice becomes another's."""
    speed_octaves: float = 0.3
    """Largest change of speed, either way, in octaves."""
    channel: float = 0.0
    """Chance of the long-term spectrum and the background noise of another utterance: its microphone and room."""
    equalizer: float = 0.0
    """Chance of a random smooth equaliser."""
    equalizer_db: float = 4.0
    """Standard deviation of its nodes."""
    band: float = 0.0
    """Chance that a band of frequencies is lost (SpecAugment, Park et al. 2019), so that no cue is the only one."""
    noise: float = 0.0
    """Chance of coloured noise."""
    voice: float = 0.0
    """Chance of another utterance over half of the crop."""
    room: float = 0.0
    """Chance of reverberation."""
    snr_db: tuple[float, float] = (0.0, 25.0)
    """Range of the signal-to-noise ratio; another voice is at least 5 dB below."""

    def __post_init__(self) -> None:
        for name in ("speed", "channel", "equalizer", "band", "noise", "voice", "room"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"disguise.{name} is a chance: between 0 and 1")

    @property
    def is_active(self) -> bool:
        """Whether `apply` ever changes anything."""
        return max(self.channel, self.equalizer, self.band, self.noise, self.voice, self.room) > 0

    def draw_speed(self, rng: np.random.Generator) -> float:
        """Factor by which a crop is read faster; 1 leaves it as it is."""
        if rng.random() >= self.speed:
            return 1.0
        return float(2 ** rng.uniform(-self.speed_octaves, self.speed_octaves))

    def apply(self, crop: Floats, other: Floats, sampling_rate: int, rng: np.random.Generator) -> Floats:
        """Change a (N,) crop; `other` is (N,) of another utterance."""
        if self.channel and rng.random() < self.channel:
            crop = borrow_channel(crop, other, rng)
        if rng.random() < self.equalizer:
            crop = equalize(crop, rng.normal(0, self.equalizer_db, EQUALIZER_NODES))
        if self.band and rng.random() < self.band:
            low = rng.uniform(0, 1 - WIDEST_BAND)
            crop = stop_band(crop, low, low + rng.uniform(0, WIDEST_BAND))
        if rng.random() < self.noise:
            crop = mix(crop, coloured_noise(len(crop), rng.uniform(0, 0.7), rng), rng.uniform(*self.snr_db))
        if rng.random() < self.voice:
            begin = rng.integers(len(crop) // 2 + 1)
            part = np.zeros_like(other)
            part[begin : begin + len(crop) // 2] = other[begin : begin + len(crop) // 2]
            crop = mix(crop, part, rng.uniform(max(5.0, self.snr_db[0]), self.snr_db[1]))
        if rng.random() < self.room:
            crop = reverberate(crop, sampling_rate, rng.uniform(*RT60_S), rng.uniform(*TAIL), rng)
        return crop


def change_speed(samples: Floats, speed: float, length: int) -> Floats:
    """Read `samples` at `speed` by linear interpolation, `length` samples long; needs ceil(length * speed) + 1.

    Worked: 0 10 20 30 at speed 1.5, two samples long: positions 0 and 1.5, so 0 and 15.
    """
    if speed == 1.0:
        return samples[:length]
    read: Floats = np.interp(np.arange(length) * speed, np.arange(len(samples)), samples)
    return read


def borrow_channel(samples: Floats, other: Floats, rng: np.random.Generator) -> Floats:
    """Give a crop the spectrum that `other` has where it is loud, and noise of the one that it has where it is quiet.

    Synthetic speech so takes on the channels of real recordings. A silent crop or `other` changes nothing.
    """
    mine, theirs = power_spectra(samples), power_spectra(other)
    if not len(mine) or not len(theirs):
        return samples
    theirs *= loud_spectrum(mine).mean() / loud_spectrum(theirs).mean()  # a level of its own it keeps
    bins = np.linspace(0, 1, mine.shape[1])
    change_db = 10 * np.log10(loud_spectrum(theirs) / loud_spectrum(mine))
    smooth_db = np.convolve(np.pad(change_db, SMOOTH_BINS // 2, "edge"), np.ones(SMOOTH_BINS) / SMOOTH_BINS, "valid")
    noise_power = theirs[: len(theirs) // QUIET_SHARE + 1].mean(axis=0)  # of the quietest frames
    noise_power *= 10 ** (-rng.uniform(0, LOWER_DB) / 10)  # as those are not quiet where nobody pauses
    spectrum = np.fft.rfft(samples)
    place = np.linspace(0, 1, len(spectrum))
    spectrum *= 10 ** (np.interp(place, bins, np.clip(smooth_db, -LARGEST_DB, LARGEST_DB)) / 20)
    spectrum += np.fft.rfft(rng.standard_normal(len(samples))) * np.interp(place, bins, np.sqrt(noise_power))
    changed: Floats = np.fft.irfft(spectrum, len(samples))
    return changed


def power_spectra(samples: Floats) -> Floats:
    """(frames, bins) power of frames of FRAME samples, from the quietest to the loudest; 1 is white noise of power 1.

    Frames without any sound, such as padding, are left out.
    """
    window = np.hanning(FRAME)
    padded = np.pad(samples, (0, max(0, FRAME - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[:: FRAME // 2]
    power = np.square(np.abs(np.fft.rfft(frames * window))) / np.square(window).sum()
    energy = power.sum(axis=1)
    found: Floats = power[np.argsort(energy, kind="stable")][np.count_nonzero(energy <= 1e-9) :]
    return found


def loud_spectrum(power: Floats) -> Floats:
    """(bins,) mean power of the louder half of frames that are sorted by loudness."""
    loud: Floats = power[len(power) // 2 :].mean(axis=0) + 1e-12
    return loud


def equalize(samples: Floats, nodes_db: Floats) -> Floats:
    """Filter by gains at nodes that lie closer together at low frequencies, as hearing does."""
    spectrum = np.fft.rfft(samples)
    place = np.sqrt(np.linspace(0, 1, len(spectrum)))
    gain_db = np.interp(place, np.linspace(0, 1, len(nodes_db)), nodes_db)
    equalized: Floats = np.fft.irfft(spectrum * 10 ** (gain_db / 20), len(samples))
    return equalized


def stop_band(samples: Floats, low: float, high: float) -> Floats:
    """Remove what lies from `low` to `high` on an axis from 0 to 1, the square root of frequency over the highest.

    Worked at 16 kHz: 0.5 to 0.75 is 2000 to 4500 Hz.
    """
    spectrum = np.fft.rfft(samples)
    place = np.sqrt(np.linspace(0, 1, len(spectrum)))
    stopped: Floats = np.fft.irfft(np.where((place >= low) & (place < high), 0, spectrum), len(samples))
    return stopped


def coloured_noise(length: int, slope: float, rng: np.random.Generator) -> Floats:
    """Noise whose amplitude falls as frequency ** -slope: 0 is white, 0.5 pink."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    noise: Floats = np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), 1) ** slope, length)
    return noise


def mix(samples: Floats, noise: Floats, snr_db: float) -> Floats:
    """Add noise at a ratio of powers over the crop; a silent noise adds nothing."""
    ratio = np.square(samples).mean() / max(np.square(noise).mean(), 1e-12)
    mixed: Floats = samples + noise * np.sqrt(ratio) * 10 ** (-snr_db / 20)
    return mixed


def reverberate(samples: Floats, sampling_rate: int, rt60_s: float, tail: float, rng: np.random.Generator) -> Floats:
    """Convolve with a direct path and a decaying tail of noise; nothing is delayed."""
    time_s = np.arange(round(rt60_s * sampling_rate)) / sampling_rate
    decay = rng.standard_normal(len(time_s)) * 10 ** (-3 * time_s / rt60_s)
    decay *= tail / np.linalg.norm(decay)
    decay[0] = 1.0
    size = 1 << (len(samples) + len(decay)).bit_length()
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(decay, size), size)
    return wet[: len(samples)]
