"""The recognizer: front, encoder and heads as one network, and the folder that rebuilds it alone.

asr.json             format version, config, what made its inputs, the text model
model.safetensors    weights
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import nn

from voxtok.asr.decoder import Decoder, DecoderConfig, DecoderState
from voxtok.asr.encoders import Encoder, EncoderConfig
from voxtok.asr.fronts import Front
from voxtok.asr.inputs import InputConfig, Inputs, Source, source_of
from voxtok.asr.padded import Padded
from voxtok.asr.text import TextModel
from voxtok.asr.transducer import Joiner, Predictor, SimpleJoiner, TransducerConfig
from voxtok.runtime.errors import ConfigError, CorruptFile
from voxtok.runtime.files import read_description, write_bytes, write_json

FORMAT = "voxtok-asr"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class RecognizerConfig:
    """The network: what it reads, its encoder and its heads."""

    inputs: InputConfig
    """What it reads."""
    encoder: EncoderConfig
    """What turns inputs into frames for the heads."""
    ctc_weight: float
    """Share of the CTC loss: 1 trains CTC alone; the field's 0.3 beside a decoder; 0 leaves CTC out."""
    decoder: DecoderConfig | None = None
    """The attention decoder; null for none."""
    transducer: TransducerConfig | None = None
    """The transducer's predictor and joiner; null for none."""

    def __post_init__(self) -> None:
        if not 0 <= self.ctc_weight <= 1:
            raise ConfigError("model.ctc-weight is a share: between 0 and 1")
        if self.decoder is not None and self.transducer is not None:
            raise ConfigError("model.decoder and model.transducer exclude each other")
        alone = self.decoder is None and self.transducer is None
        if alone != (self.ctc_weight == 1):
            raise ConfigError("model.ctc-weight is 1 without decoder and transducer, and below 1 with one")

    @property
    def heads(self) -> tuple[Literal["ctc", "attention", "transducer"], ...]:
        """The heads that this recognizer has."""
        every: tuple[tuple[Literal["ctc", "attention", "transducer"], bool], ...] = (
            ("ctc", self.ctc_weight > 0),
            ("attention", self.decoder is not None),
            ("transducer", self.transducer is not None),
        )
        return tuple(name for name, there in every if there)


class Recognizer(nn.Module):
    """Inputs to scores of text, for training and for every search.

    All heads share the text model's numbers: BLANK = 0 belongs to CTC and the transducer alone, `text.sos_eos` to the
    attention decoder alone.

    Example:
        recognizer = Recognizer.load("exp/asr", device="auto")
        encoded = recognizer.encode(inputs)                        # (B, T, D), (B,)
        log_probs = recognizer.ctc_log_probs(encoded)              # (B, T, V)

    Attributes:
        config: the network.
        source: what makes its inputs; other tokens are refused with TokenizerMismatch.
        text: the text model.
    """

    def __init__(self, config: RecognizerConfig, source: Source, text: TextModel) -> None:
        super().__init__()
        self.config, self.source, self.text = config, source, text
        width = config.encoder.width
        self.front = Front(config.inputs, source)
        self.encoder = Encoder(config.encoder, config.inputs.width)
        self.ctc = nn.Linear(width, text.vocab_size) if config.ctc_weight > 0 else None
        self.decoder = Decoder(config.decoder, width, text.vocab_size) if config.decoder else None
        self.predictor = Predictor(config.transducer, text.vocab_size) if config.transducer else None
        self.joiner = Joiner(config.transducer, width, text.vocab_size) if config.transducer else None
        pruned = config.transducer is not None and config.transducer.loss == "pruned"
        self.simple = SimpleJoiner(config.transducer, width, text.vocab_size) if config.transducer and pruned else None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def seconds_per_frame(self) -> float:
        """Of the encoder's frames; of inputs with durations (merged tokens, subwords) frames have no fixed time."""
        return self.config.encoder.subsampling / self.source.frame_rate_hz

    def encode(self, inputs: Inputs, augment: Callable[[Padded], Padded] | None = None) -> Padded:
        """Encoder frames (B, T, D) of a batch on this recognizer's device; `augment` masks its inputs in training."""
        frames = self.front(inputs)
        found: Padded = self.encoder(frames if augment is None else augment(frames))
        return found

    def ctc_log_probs(self, encoded: Padded) -> torch.Tensor:
        """(B, T, V) float32 log-probabilities of CTC.

        Raises:
            ConfigError: this recognizer has no CTC head.
        """
        head = self._has(self.ctc, "CTC head")
        found: torch.Tensor = head(encoded.values).float().log_softmax(dim=-1)
        return found

    def attention_start(self, encoded: Padded) -> DecoderState:
        """The decoder's state before sos, one hypothesis for each utterance; it can be repeated and reordered.

        Raises:
            ConfigError: this recognizer has no attention decoder.
        """
        state: DecoderState = self._has(self.decoder, "attention decoder").start(encoded)
        return state

    def attention_step(self, pieces: torch.Tensor, state: DecoderState) -> tuple[torch.Tensor, DecoderState]:
        """Log-probabilities (N, V) of the next piece once each of N hypotheses takes `pieces` (N,), and their state.

        The first pieces are `text.sos_eos`; the log-probability of `text.sos_eos` is that of the sentence's end.
        """
        found: tuple[torch.Tensor, DecoderState] = self._has(self.decoder, "attention decoder").step(pieces, state)
        return found

    def predict(self, history: torch.Tensor) -> torch.Tensor:
        """The predictor's output (N, P) after the last `config.transducer.history` pieces (N, history), BLANK before
        the first.

        Raises:
            ConfigError: this recognizer has no transducer.
        """
        found: torch.Tensor = self._has(self.predictor, "transducer")(history)[:, -1]
        return found

    def join(self, frames: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (N, V) of blank or the next piece, from encoder frames (N, D) and `predict`'s (N, P)."""
        found: torch.Tensor = self._has(self.joiner, "transducer")(frames, predicted).float().log_softmax(dim=-1)
        return found

    def _has(self, head: Any, name: str) -> Any:
        if head is None:
            raise ConfigError(f"this recognizer has no {name}: it was trained with {' and '.join(self.config.heads)}")
        return head

    def save(self, folder: Path | str) -> None:
        """Write the folder; asr.json comes last, so that one that opens is complete."""
        folder = Path(folder)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        write_bytes(folder / "model.safetensors", safetensors.save(weights))
        described = {
            "format": FORMAT,
            "version": VERSION,
            "config": asdict(self.config),
            "source": self.source.described(),
            "text": self.text.described(),
        }
        write_json(folder / "asr.json", described)

    @classmethod
    def load(cls, folder: Path | str, *, device: torch.device | str) -> "Recognizer":
        """Rebuild a saved recognizer, in evaluation mode.

        Raises:
            CorruptFile: not a recognizer's folder, or a damaged one.
        """
        path = Path(folder) / "asr.json"
        if not path.exists():
            raise CorruptFile(f"{folder}: not a recognizer's folder (no asr.json)")
        described = read_description(path, FORMAT, VERSION, ("config", "source", "text"))
        text = TextModel.from_description(described["text"], path)
        try:
            recognizer = cls(config_of(described["config"]), source_of(described["source"]), text)
            recognizer.load_state_dict(safetensors.load_file(Path(folder) / "model.safetensors"))
        except (TypeError, KeyError, RuntimeError, OSError, SafetensorError) as error:
            raise CorruptFile(f"{folder}: damaged, {error}") from error
        return recognizer.to(device).eval()


def config_of(described: dict[str, Any]) -> RecognizerConfig:
    """The configuration in asr.json."""
    inputs, decoder, transducer = described["inputs"], described["decoder"], described["transducer"]
    return RecognizerConfig(
        inputs=InputConfig(**{**inputs, "layers": tuple(inputs["layers"])}),
        encoder=EncoderConfig(**described["encoder"]),
        ctc_weight=described["ctc_weight"],
        decoder=None if decoder is None else DecoderConfig(**decoder),
        transducer=None if transducer is None else TransducerConfig(**transducer),
    )
