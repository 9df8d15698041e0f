"""What tokens are spoken with: a vocoder of tokens, or a vocoder of features in the voice of a reference.

Zero-shot voices need no speech of many speakers (kNN-TTS, Hajal et al. 2024; ParrotTTS, Kumar et al. 2023): tokens say
what is said, and the frames that they stand for are matched into the reference's frames as in kNN-VC.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from voxtok.manifests.tokens import TokenSequence
from voxtok.runtime.errors import ConfigError, CorruptFile
from voxtok.runtime.files import sha256, sha256_file
from voxtok.tokenize.quantizer import open_quantizer
from voxtok.tokenize.tokenizer_folder import config_of, read_description, read_parts
from voxtok.tts.forms import check_form, timed_for
from voxtok.tts.text_to_tokens import TextToTokens
from voxtok.tts.trained_voices import TrainedVoices
from voxtok.vocoder.centroids import Centroids
from voxtok.vocoder.conditions import Speaker
from voxtok.vocoder.conversion import Blend, Converter
from voxtok.vocoder.features import FeatureConfig, Features, identity_fingerprint
from voxtok.vocoder.make_pool import pool_of
from voxtok.vocoder.pool import Pool, is_pool
from voxtok.vocoder.reference import reference_cuts
from voxtok.vocoder.speaker import load_speaker_model
from voxtok.vocoder.vocoder import Vocoder, mini_folder

Samples = npt.NDArray[np.float32]


class Voice(Protocol):
    """Speaks tokens.

    Attributes:
        sampling_rate: of the waveforms, Hz.
        identity: JSON of all that decides a waveform, the tokens aside.
        takes_speakers: whether it is told who speaks.
    """

    @property
    def takes_speakers(self) -> bool: ...

    @property
    def sampling_rate(self) -> int: ...

    @property
    def identity(self) -> Any: ...

    def speak(self, tokens: TokenSequence) -> Samples:
        """The waveform, (T,) float32.

        Raises:
            TokenizerMismatch: tokens of another tokenizer.
        """
        ...


@dataclass(frozen=True, eq=False)
class VocoderVoice:
    """A vocoder of tokens, or of another form of theirs; see Voice."""

    vocoder: Vocoder
    speaker: Speaker | None
    identity: Any
    tokenizer: Path
    untimed: bool

    @property
    def takes_speakers(self) -> bool:
        """As the vocoder was trained."""
        return self.vocoder.model.config.speaker != "none"

    @property
    def sampling_rate(self) -> int:
        """Of the vocoder."""
        return self.vocoder.sampling_rate

    def speak(self, tokens: TokenSequence) -> Samples:
        """See Voice."""
        timed = timed_for(tokens, self.tokenizer, self.vocoder, untimed=self.untimed)
        return self.vocoder.from_tokens(timed, speaker=self.speaker)


@dataclass(frozen=True, eq=False)
class ReferenceVoice:
    """The voice of a reference, by matching the centroids of tokens into its frames; see Voice."""

    converter: Converter
    centroids: Centroids
    identity: Any
    takes_speakers: bool = False

    @property
    def sampling_rate(self) -> int:
        """Of the vocoder."""
        return self.converter.vocoder.sampling_rate

    def speak(self, tokens: TokenSequence) -> Samples:
        """See Voice."""
        return self.converter.convert_frames(self.centroids.frames(tokens))


def vocoder_voice(
    folder: str, model: TextToTokens, home: Path, speaker: Speaker | None, *, speaker_model: str, device: str
) -> VocoderVoice:
    """A vocoder for what a model makes.

    Args:
        folder: of the vocoder, or mini.
        model: makes the tokens.
        home: the model's folder, with its tokenizer and the voices that it was trained on.
        speaker: who speaks, for vocoders that are told: a name, an embedding or a recording.
        speaker_model: what measures a recording.
        device: to compute on.

    Raises:
        TokenizerMismatch: a vocoder of other tokens.
        ConfigError: it takes no tokens, or needs durations that the model does not make.
    """
    vocoder = Vocoder.load(folder, device=device)
    tokenizer = home / "tokenizer"
    check_form(model.frame_rate_hz, model.fingerprint, tokenizer, vocoder, untimed=model.untimed)
    told = TrainedVoices.load(home).told(vocoder, speaker, speaker_model)
    named = told if told is None or isinstance(told, str) else np.asarray(told).tolist()
    return VocoderVoice(vocoder, told, [vocoder_key(folder), named], tokenizer, model.untimed)


def reference_voice(
    reference: str,
    folder: str,
    tokenizer: Path,
    blend: Blend,
    *,
    upstream: str | None,
    speaker_model: str,
    device: str,
) -> ReferenceVoice:
    """The voice of a reference, over frames of the tokenizer's own SSL model and layer.

    Args:
        reference: a pool, an audio file, a folder of audio files, or Lhotse cuts.
        folder: of a vocoder of these features.
        tokenizer: folder of the tokens' tokenizer.
        blend: neighbours, and how much of the tokens' own frames is left.
        upstream: another place of the tokenizer's SSL model.
        speaker_model: what measures the reference for a vocoder that is told who speaks; a pool was measured before.
        device: to compute on.

    Raises:
        TokenizerMismatch: a pool or a vocoder of other features.
        ConfigError: the tokens are of several layers, or are subwords.
        ManifestError: no recording of the reference can be used.
    """
    centroids, features = open_centroids(tokenizer)
    vocoder = Vocoder.load(folder, device=device)
    vocoder.check_features(centroids.features)
    if is_pool(reference):
        pool = Pool.load(reference)
    else:
        config = features if upstream is None else FeatureConfig(**{**vars(features), "upstream": upstream})
        opened = Features.open(config, device=device)
        measure = None
        if vocoder.model.config.speaker == "embedding":
            measure = load_speaker_model(speaker_model, device=device)
        pool, _ = pool_of(reference_cuts(reference), opened, windows=None, trim=False, speaker_model=measure)
    converter = Converter(vocoder, pool, blend)
    told = None if converter.speaker is None else np.asarray(converter.speaker).tolist()
    return ReferenceVoice(converter, centroids, [vocoder_key(folder), vars(blend), converter.pools_sha256, told])


def open_centroids(tokenizer: Path) -> tuple[Centroids, FeatureConfig]:
    """The codebook of a tokenizer folder, and the features that it is over; needs no SSL model.

    Raises:
        CorruptFile: no tokenizer is there.
        ConfigError: several layers, or subwords.
    """
    described = read_description(tokenizer)
    codebook, subwords = read_parts(tokenizer, described)
    config = config_of(described)
    if len(config.layers) != 1 or subwords is not None:
        raise ConfigError("the voice of a reference needs tokens of one layer, and no subwords")
    features = identity_fingerprint(described["identity"], config.layers)
    centroids = Centroids(open_quantizer(codebook, torch.device("cpu")), described["fingerprint"], features)
    return centroids, FeatureConfig(
        upstream=config.upstream, layer=config.layers[0], normalization=config.normalization, dtype=config.dtype
    )


def vocoder_key(folder: str) -> str:
    """Hash of a vocoder's folder.

    Raises:
        CorruptFile: a file of it is missing.
    """
    path = mini_folder() if folder == "mini" else Path(folder)
    try:
        return sha256([sha256_file(path / name) for name in ("vocoder.json", "model.safetensors")])
    except OSError as error:
        raise CorruptFile(f"{folder}: not a vocoder folder ({error})") from error
