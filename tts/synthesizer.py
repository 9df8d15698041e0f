"""The text-to-token model: sentences to token sequences, and the folder that rebuilds it alone.

tts.json             format version, shape, what made the tokens, speakers
text.json            the text front end
model.safetensors    weights
tokenizer/           a copy of the tokenizer, so that tokens are never without their codebook
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from voxtok.manifests.tokens import TokenSequence
from voxtok.runtime.distributed import pick_device
from voxtok.runtime.errors import BadText, ConfigError, CorruptFile, one_line
from voxtok.runtime.files import read_description, sha256, sha256_file, write_bytes, write_json
from voxtok.tts.network import MOST_ROWS, TtsNetwork, TtsShape, whole_rows
from voxtok.tts.refinement import Decoding, decode
from voxtok.tts.text import TextFrontEnd
from voxtok.tts.utterances import Source

FORMAT = "voxtok-tts"
VERSION = 1
T = TypeVar("T")

MOST_SYMBOLS = 2000
"""Of a sentence, some two minutes; and the square of it bounds the symbols squared, by which memory grows, of all that
are computed together."""

Speaker = str | npt.NDArray[np.floating]
"""The name of a training speaker, or a speaker embedding (E,)."""


@dataclass(frozen=True, kw_only=True)
class Speakers:
    """Who the model can be told to speak as.

    Attributes:
        names: of the speaker table; empty without one.
        width: dimensions of a speaker embedding; 0 without.
        model: fingerprint of what measures the embedding; "" without.
    """

    names: tuple[str, ...] = ()
    width: int = 0
    model: str = ""


class Synthesizer:
    """Sentences to tokens.

    Example:
        synthesizer = Synthesizer.load("exp/tts")
        tokens = synthesizer.tokens(["Hello, world!"], Decoding(), seed=0)[0]

    Attributes:
        network: on its device.
        front: the text front end.
        source: what made the tokens that it learnt from.
        speakers: who it can be told to speak as.
    """

    def __init__(self, shape: TtsShape, front: TextFrontEnd, source: Source, speakers: Speakers) -> None:
        self.front, self.source, self.speakers = front, source, speakers
        if shape.rows == "frames" and source.pieces:
            raise ConfigError("tokens that are subword pieces last several frames: set model.rows to merged")
        known = len(speakers.names) if shape.speaker == "table" else speakers.width
        self.network = TtsNetwork(shape, front.vocab_size, source.vocab_sizes, known)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.network.parameters()).device

    @property
    def fingerprint(self) -> str:
        """Of the tokenizer whose tokens it makes."""
        return self.source.fingerprint

    def tokens(
        self,
        texts: Sequence[str],
        decoding: Decoding,
        *,
        seed: int,
        speaker: Speaker | None = None,
        speed: float = 1.0,
    ) -> list[TokenSequence | BadText]:
        """Tokens of each sentence, or what is wrong with it; they do not depend on the other sentences.

        Args:
            texts: sentences.
            decoding: how tokens are chosen.
            seed: of what is drawn, where decoding has a temperature.
            speaker: a training speaker's name or an embedding; None only where the model was trained without.
            speed: 2 speaks twice as fast.

        Raises:
            ConfigError: a speaker that is not known, or none where one is needed; a speed that is not positive.
        """
        if speed <= 0:
            raise ConfigError("speed must be positive: 1 is the training speech's")
        found: dict[int, TokenSequence | BadText] = {}
        said: dict[int, npt.NDArray[np.int64]] = {}
        for place, ids in enumerate(self.front.encode_batch(texts)):
            if isinstance(ids, BadText):
                found[place] = ids
            elif len(ids) > MOST_SYMBOLS:
                found[place] = BadText(f"{len(ids)} symbols are more than {MOST_SYMBOLS}: say it in parts")
            else:
                said[place] = np.array(ids, dtype=np.int64)
        for group in groups({place: len(ids) for place, ids in said.items()}):
            part = [said[place] for place in group]
            made = self.tokens_of_ids(part, decoding, seed=seed, speaker=speaker, speed=speed)
            found.update(zip(group, made, strict=True))
        return [found[place] for place in range(len(texts))]

    @torch.inference_mode()
    def tokens_of_ids(
        self,
        ids: Sequence[npt.NDArray[np.int64]],
        decoding: Decoding,
        *,
        seed: int,
        speaker: Speaker | None,
        speed: float,
    ) -> list[TokenSequence]:
        """Tokens of sentences as the front end numbers them; other arguments and errors as in `tokens`."""
        symbols = padded(ids).to(self.device)
        hidden = self.network.encode(symbols, self._speaker(speaker, len(ids)))
        logs = self.network.log_durations(hidden, symbols)
        durations = whole_rows(logs, symbols, self.front.boundaries, speed)
        rows = self.network.expand(hidden, durations)
        generators = [torch.Generator().manual_seed(_seed_of(seed, numbers)) for numbers in ids]
        decoded = decode(self.network, rows, decoding, generators)
        lengths = rows.inside.sum(dim=1).tolist()
        return [
            self._sequence(codes[:length], None if logs is None else logs[:length], speed)
            for codes, logs, length in zip(
                decoded.codes.cpu(), _each(decoded.log_frames, len(ids)), lengths, strict=True
            )
        ]

    def _sequence(self, codes: torch.Tensor, log_frames: torch.Tensor | None, speed: float) -> TokenSequence:
        frames = None
        if log_frames is not None:
            frames = (log_frames.expm1() / speed).round().clamp(1, MOST_ROWS).long().cpu().numpy()
        return self.source.sequence(codes.numpy(), frames)

    def _speaker(self, speaker: Speaker | None, count: int) -> torch.Tensor | None:
        """What the network takes for a speaker, `count` times."""
        kind = self.network.shape.speaker
        if speaker is None or kind == "none":
            if speaker is not None:
                raise ConfigError("this model was trained without speakers: leave out the speaker")
            return None
        if kind == "table":
            if not isinstance(speaker, str) or speaker not in self.speakers.names:
                known = ", ".join(self.speakers.names[:10])
                raise ConfigError(f"speaker {speaker!r} is not one of this model's: {known}, ...")
            return torch.full((count,), self.speakers.names.index(speaker), device=self.device)
        if isinstance(speaker, str) or speaker.shape != (self.speakers.width,):
            raise ConfigError(f"this model is told who speaks by an embedding of {self.speakers.width} numbers")
        return torch.from_numpy(speaker.astype(np.float32)).to(self.device).expand(count, -1)

    def save(self, folder: Path | str, dtype: Literal["float32", "float16"] = "float32") -> None:
        """Write the folder; tts.json comes last, so that one that opens is complete."""
        folder = Path(folder)
        weights = {
            name: tensor.detach().cpu().to(getattr(torch, dtype)).contiguous()
            for name, tensor in self.network.state_dict().items()
        }
        write_bytes(folder / "model.safetensors", save_tensors(weights))
        self.front.save(folder / "text.json")
        described = {
            "format": FORMAT,
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "shape": asdict(self.network.shape),
            "source": self.source.described(),
            "speakers": asdict(self.speakers),
            "text": self.front.sha256,
        }
        write_json(folder / "tts.json", described)

    @classmethod
    def load(cls, folder: Path | str, *, device: str = "auto") -> "Synthesizer":
        """Open a folder, ready to speak, or "mini", the model that is installed with voxtok.

        Raises:
            CorruptFile: not a TTS folder, or damaged.
        """
        folder = tts_folder(folder)
        if not (folder / "tts.json").exists():
            raise CorruptFile(f"{folder}: not a text-to-speech folder (no tts.json)")
        described = read_description(folder / "tts.json", FORMAT, VERSION, ("shape", "source", "speakers", "text"))
        front = TextFrontEnd.load(folder / "text.json")
        if front.sha256 != described["text"]:
            raise CorruptFile(f"{folder}: text.json is not the text front end that tts.json describes")
        try:
            parts = (_filled(TtsShape, described["shape"]), _filled(Source, described["source"]))
            found = cls(parts[0], front, parts[1], _filled(Speakers, described["speakers"]))
            tensors = load_tensors((folder / "model.safetensors").read_bytes())
            found.network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        except (OSError, RuntimeError, SafetensorError, TypeError) as error:
            raise CorruptFile(f"{folder}: damaged, or of another release: {one_line(error)}") from error
        found.network.eval().to(pick_device(device))
        return found


def tts_folder(name: Path | str) -> Path:
    """The folder of a model: "mini" is the installed one, as in `--tokenizer mini`; everything else is a path."""
    installed = Path(__file__).parents[1] / "models" / "tts-mini"  # in a checkout as in an installed package
    return installed if name == "mini" else Path(name)


def model_key(folder: Path | str) -> str:
    """Hash of a TTS folder: what was said with another model is said again."""
    folder = Path(folder)
    return sha256([sha256_file(folder / name) for name in ("tts.json", "text.json", "model.safetensors")])


def groups(lengths: dict[int, int]) -> Iterator[list[int]]:
    """Keys of lengths, the shortest first, as many together as memory allows."""
    group: list[int] = []
    for place, length in sorted(lengths.items(), key=lambda item: item[1]):
        if group and (len(group) + 1) * length**2 > MOST_SYMBOLS**2:
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def padded(rows: Sequence[npt.NDArray[Any]]) -> torch.Tensor:
    """(B, P) of (P,) or (B, R, S) of (R, S), zeros behind the shorter ones."""
    return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)


def _each(batch: torch.Tensor | None, count: int) -> Iterator[torch.Tensor | None]:
    for index in range(count):
        yield None if batch is None else batch[index]


def _seed_of(seed: int, ids: npt.NDArray[np.int64]) -> int:
    """Of a sentence: it follows from what is said, not from its place."""
    return int(sha256([seed, ids.tolist()])[:15], 16)


def _filled(kind: type[T], values: dict[str, Any]) -> T:
    """A dataclass from its JSON, which has lists for tuples and must have every field."""
    wanted = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if set(values) != wanted:
        raise TypeError(f"{kind.__name__} has {sorted(wanted)}, not {sorted(values)}")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
