"""Speaker embeddings: who speaks, as a vector of unit length whose inner product with another says how alike they are.

`mini` is installed with voxtok: means and deviations of mel cepstra and log F0 over the speech of a recording, through
a linear discriminant that was fitted to tell speakers apart (voxtok.vocoder.speaker_fit). It is light and knows timbre
and pitch range, nothing else; where verification matters give the folder of a trained ECAPA-TDNN (Desplanques et al.
2020), as SpeechBrain publishes it.
"""

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from lhotse.cut import Cut
from safetensors import SafetensorError
from safetensors.numpy import load, save

from voxtok.manifests.audio import read_audio
from voxtok.runtime.distributed import pick_device
from voxtok.runtime.errors import BadAudio, ConfigError, CorruptFile, one_line
from voxtok.runtime.files import read_description, sha256, write_bytes, write_json
from voxtok.runtime.optional import require_speechbrain
from voxtok.vocoder.f0 import pitch
from voxtok.vocoder.mel import MelShape, log_mel, mel_cepstra

RATE = 16000
SHAPE = MelShape(RATE, 512, 160, 40)
CEPSTRA = 24
LOUD_DB = 30.0
"""Frames this far below the loud ones are no speech."""
MIN_S = 0.5

FORMAT = "voxtok-speaker"
VERSION = 1

Samples = npt.NDArray[np.float32]
Embedding = npt.NDArray[np.float32]


class SpeakerModel(Protocol):
    """Measures speaker embeddings.

    Attributes:
        sampling_rate: of the samples it takes, Hz.
        width: dimensions of an embedding.
        fingerprint: identity of everything that changes an embedding.
    """

    sampling_rate: int
    width: int
    fingerprint: str

    def embed(self, samples: Samples) -> Embedding:
        """(T,) float32 samples to (width,) float32 of unit length.

        Raises:
            ConfigError: shorter than half a second, or silent.
        """
        ...


def load_speaker_model(name: str, *, device: str = "auto") -> SpeakerModel:
    """Open a speaker model.

    Args:
        name: "mini"; a folder that `voxtok.vocoder.speaker_fit` wrote; or a folder with SpeechBrain's
            embedding_model.ckpt of an ECAPA-TDNN (spkrec-ecapa-voxceleb).
        device: of an ECAPA-TDNN.

    Raises:
        ConfigError: the name leads to none of these.
        CorruptFile: the folder is damaged.
    """
    folder = Path(__file__).parents[1] / "models" / "speaker-mini" if name == "mini" else Path(name)
    if (folder / "speaker.json").exists():
        return StatisticsSpeaker.load(folder)
    if (folder / "embedding_model.ckpt").exists():
        return Ecapa(folder / "embedding_model.ckpt", pick_device(device))
    raise ConfigError(f"no speaker model {name!r}: give mini, or a folder with speaker.json or embedding_model.ckpt")


def similarity(one: Embedding, other: Embedding) -> float:
    """Cosine of two embeddings: 1 is the same voice."""
    return float(np.dot(one, other) / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-12))


def mean_embedding(model: SpeakerModel, cuts: Iterable[Cut | BadAudio], most: int | None = None) -> Embedding:
    """The embedding of one speaker's recordings: their mean, at unit length.

    Args:
        model: measures each.
        cuts: recordings; those that cannot be read, or are too short or silent, are passed over.
        most: how many are measured, the first that can be; None measures all.

    Raises:
        ConfigError: none can; says what is wrong with the first.
    """
    found: list[Embedding] = []
    wrong: list[str] = []
    for cut in cuts:
        if len(found) == most:
            break
        if isinstance(cut, BadAudio):
            wrong.append(str(cut))
            continue
        try:
            found.append(model.embed(read_audio(cut, model.sampling_rate)))
        except (BadAudio, ConfigError) as error:
            wrong.append(str(error) if isinstance(error, BadAudio) else f"{cut.id}: {error}")
    if not found:
        raise ConfigError(f"no recording to measure the speaker on ({wrong[0] if wrong else 'there is none'})")
    return _unit(np.mean(found, axis=0))


def speech_statistics(samples: Samples) -> npt.NDArray[np.float32]:
    """Means and deviations of mel cepstra 1 .. 24 over speech, and of log F0 over voiced frames: (50,) float32.

    Args:
        samples: (T,) at 16 kHz.

    Raises:
        ConfigError: shorter than half a second, or silent.
    """
    if len(samples) < MIN_S * RATE or not np.abs(samples).max(initial=0.0) > 0:
        raise ConfigError(f"a speaker is measured on at least {MIN_S} s of speech, not on {len(samples) / RATE:.2f} s")
    waveform = torch.from_numpy(samples)
    level = log_mel(waveform, SHAPE).exp().square().sum(dim=1).log10() * 10
    speech = level > level.quantile(0.95) - LOUD_DB
    cepstra = mel_cepstra(waveform, SHAPE, CEPSTRA)[speech].numpy()
    f0_hz = pitch(samples, RATE, SHAPE.hop_samples * 2, len(samples) // (SHAPE.hop_samples * 2))
    logs = np.log(f0_hz[f0_hz > 0])
    tone = (logs.mean(), logs.std()) if len(logs) else (math.log(150.0), 0.2)
    return np.concatenate([cepstra.mean(axis=0), cepstra.std(axis=0), tone]).astype(np.float32)


class StatisticsSpeaker:
    """Speech statistics through a linear map, at unit length; see SpeakerModel."""

    sampling_rate = RATE

    def __init__(self, mean: npt.NDArray[np.float32], projection: npt.NDArray[np.float32]) -> None:
        """Statistics' mean (S,) and their projection (S, width)."""
        self.mean, self.projection = mean, projection
        self.width = projection.shape[1]
        digest = hashlib.sha256(np.ascontiguousarray(np.vstack([mean, projection.T]), dtype="<f4").tobytes())
        self.fingerprint = sha256({"format": [FORMAT, VERSION], "arrays": digest.hexdigest()})

    def embed(self, samples: Samples) -> Embedding:
        """See SpeakerModel."""
        return self.project(speech_statistics(samples))

    def project(self, statistics: npt.NDArray[np.float32]) -> Embedding:
        """(S,) statistics to their (width,) embedding."""
        return _unit((statistics - self.mean) @ self.projection)

    def save(self, folder: Path | str) -> None:
        """Write speaker.json and model.safetensors."""
        arrays = {"mean": self.mean, "projection": self.projection}
        write_bytes(Path(folder) / "model.safetensors", save(arrays))
        write_json(Path(folder) / "speaker.json", {"format": FORMAT, "version": VERSION, "width": self.width})

    @classmethod
    def load(cls, folder: Path | str) -> "StatisticsSpeaker":
        """Read what `save` wrote.

        Raises:
            CorruptFile: damaged, or of another version.
        """
        read_description(Path(folder) / "speaker.json", FORMAT, VERSION, ("width",))
        try:
            arrays = load((Path(folder) / "model.safetensors").read_bytes())
            return cls(arrays["mean"], arrays["projection"])
        except (OSError, KeyError, SafetensorError) as error:
            raise CorruptFile(f"{folder}: model.safetensors cannot be read: {one_line(error)}") from error


class Ecapa:
    """SpeechBrain's ECAPA-TDNN with published weights, on 80 log-mel bands less their mean; see SpeakerModel."""

    sampling_rate = RATE

    def __init__(self, checkpoint: Path, device: torch.device) -> None:
        try:
            weights = torch.load(checkpoint, map_location="cpu", weights_only=True)
            self._net = _ecapa(weights)
            self._net.load_state_dict(weights)
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise CorruptFile(f"{checkpoint} holds no ECAPA-TDNN: {one_line(error)}") from error
        self._net.eval().to(device)
        self._device = device
        self._features = require_speechbrain("speechbrain.lobes.features").Fbank(n_mels=80).to(device)
        self.width = int(weights["fc.conv.weight"].shape[0])
        self.fingerprint = sha256(
            {"family": "ecapa-tdnn", "weights": hashlib.sha256(checkpoint.read_bytes()).hexdigest()}
        )

    @torch.inference_mode()
    def embed(self, samples: Samples) -> Embedding:
        """See SpeakerModel."""
        if len(samples) < MIN_S * RATE:
            raise ConfigError(f"a speaker is measured on at least {MIN_S} s of speech")
        features = self._features(torch.from_numpy(samples)[None].to(self._device))
        found = self._net(features - features.mean(dim=1, keepdim=True))
        return _unit(found.reshape(-1).cpu().numpy())


def _ecapa(weights: dict[str, torch.Tensor]) -> Any:
    """The network of a state dict, whose shapes say how wide it is."""
    first, last = weights["blocks.0.conv.conv.weight"], weights["mfa.conv.conv.weight"]
    return require_speechbrain("speechbrain.lobes.models.ECAPA_TDNN").ECAPA_TDNN(
        first.shape[1],
        channels=[first.shape[0]] * 4 + [last.shape[0]],
        kernel_sizes=[5, 3, 3, 3, 1],
        dilations=[1, 2, 3, 4, 1],
        attention_channels=weights["asp.tdnn.conv.conv.weight"].shape[0],
        lin_neurons=weights["fc.conv.weight"].shape[0],
    )


def _unit(vector: npt.NDArray[np.floating]) -> Embedding:
    return (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)
