"""Text to tokens by a model of either kind, with all that it is told but the text: what `voxtok say` speaks."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from voxtok.manifests.audio import read_audio
from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.tokens import TokenSequence
from voxtok.runtime.errors import BadText, ConfigError
from voxtok.runtime.files import sha256, sha256_file
from voxtok.tokenize.tokenizer import Tokenizer
from voxtok.tts.lm import UnitLm
from voxtok.tts.refinement import Decoding
from voxtok.tts.synthesizer import Speaker, Synthesizer, model_key
from voxtok.tts.tts_lm import Drawing, LmSynthesizer
from voxtok.tts.tts_lm import Voice as LmVoice


class TextToTokens(Protocol):
    """Makes tokens of sentences.

    Attributes:
        fingerprint: of the tokenizer whose tokens it makes.
        frame_rate_hz: of these tokens.
        untimed: whether they are merged and have no durations.
        identity: JSON of all that decides the tokens of a sentence, but the model's own files.
        speaker: what it is told of who speaks, or None.
    """

    @property
    def speaker(self) -> Any: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def frame_rate_hz(self) -> float: ...

    @property
    def untimed(self) -> bool: ...

    @property
    def identity(self) -> Any: ...

    def tokens(self, texts: Sequence[str]) -> list[TokenSequence | BadText]:
        """Tokens of each sentence, or what is wrong with it; they do not depend on the other sentences."""
        ...


@dataclass(frozen=True, eq=False)
class AtOnce:
    """A model of `voxtok train-tts`; see TextToTokens."""

    model: Synthesizer
    decoding: Decoding
    speaker: Speaker | None
    speed: float
    seed: int
    untimed: bool = False

    @property
    def fingerprint(self) -> str:
        """Of the model."""
        return self.model.fingerprint

    @property
    def frame_rate_hz(self) -> float:
        """Of the model."""
        return self.model.source.frame_rate_hz

    @property
    def identity(self) -> Any:
        """What it is told."""
        told = self.speaker if self.speaker is None or isinstance(self.speaker, str) else self.speaker.tolist()
        return [asdict(self.decoding), self.speed, self.seed, told]

    def tokens(self, texts: Sequence[str]) -> list[TokenSequence | BadText]:
        """See TextToTokens."""
        return self.model.tokens(texts, self.decoding, seed=self.seed, speaker=self.speaker, speed=self.speed)


@dataclass(frozen=True, eq=False)
class OneByOne:
    """A model of `voxtok train-tts-lm`, which draws token by token; see TextToTokens."""

    model: LmSynthesizer
    drawing: Drawing
    speaker: LmVoice | None
    rescorer: UnitLm | None
    rescorer_key: str | None
    seed: int

    @property
    def fingerprint(self) -> str:
        """Of the model."""
        return self.model.fingerprint

    @property
    def frame_rate_hz(self) -> float:
        """Of the model."""
        return self.model.lm.layout.frame_rate_hz

    @property
    def untimed(self) -> bool:
        """Whether its rows are merged, without durations."""
        return self.model.lm.layout.rows == "merged"

    @property
    def identity(self) -> Any:
        """What it is told."""
        told = self.speaker if self.speaker is None or isinstance(self.speaker, str) else self.speaker.codes.tolist()
        return [asdict(self.drawing), self.seed, told, self.rescorer_key]

    def tokens(self, texts: Sequence[str]) -> list[TokenSequence | BadText]:
        """See TextToTokens."""
        return self.model.tokens(texts, self.drawing, seed=self.seed, speaker=self.speaker, rescorer=self.rescorer)


def tokens_of_recording(recording: str, tokenizer: Path, device: str, upstream: str | None) -> TokenSequence:
    """Tokens of a recording, for a language model to go on in its voice.

    Raises:
        ConfigError: there are several, or none.
    """
    cuts = list(load_cuts(recording))
    if len(cuts) != 1:
        raise ConfigError(f"--speaker {recording} has {len(cuts)} recordings: give the one whose voice shall go on")
    opened = Tokenizer.load(tokenizer, device=device, upstream=upstream)
    rate = opened.upstream.sampling_rate
    return opened.encode(read_audio(cuts[0], rate), rate)


def is_lm(folder: Path | str) -> bool:
    """Whether a folder is one of `voxtok train-tts-lm`."""
    return (Path(folder) / "tts_lm.json").exists()


def key_of_model(folder: Path | str) -> str:
    """Hash of a model's folder: what was said with another model is said again."""
    if not is_lm(folder):
        return model_key(folder)
    return sha256([sha256_file(Path(folder) / name) for name in ("tts_lm.json", "lm.json", "model.safetensors")])
