"""How long and how fast a vocoder is trained, and what is kept of it."""

from dataclasses import dataclass
from typing import Literal

from voxtok.runtime.errors import ConfigError
from voxtok.runtime.training import learning_rate


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long and how fast; everything but reports and checkpoints changes the model."""

    steps: int
    """Batches to train on."""
    adversarial_from: int
    """Step at which the discriminators begin; before it, spectral distance alone; `steps` leaves them out."""
    peak_lr: float = 2e-4
    """Highest learning rate of the generator's AdamW."""
    discriminator_lr: float = 2e-4
    """Highest learning rate of the discriminators' AdamW."""
    warmup_steps: int = 100
    """Steps until the highest learning rate."""
    decay_share: float = 0.5
    """Share of the steps over which the learning rate falls to zero, at the end."""
    max_gradient: float = 10.0
    """Norm at which the generator's gradients are clipped."""
    average: float = 0.999
    """Decay of the average of the weights, which is what is kept; 0 keeps the last ones."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of matrix products and convolutions; weights and spectra stay float32."""
    saved_dtype: Literal["float32", "float16"] = "float32"
    """Number format of the weights in out/model."""
    heldout: int = 4
    """Utterances, the corpus's last ones, that are not trained on: their distance, and samples for TensorBoard."""
    workers: int = 0
    """Threads that prepare batches ahead; 0 prepares them in between."""
    report_steps: int = 50
    """Steps from one line of metrics to the next."""
    checkpoint_steps: int = 1000
    """Steps from one checkpoint, and one look at the held-out utterances, to the next."""
    tensorboard: bool = False
    """Write TensorBoard's files too, with samples and spectrograms (pip install tensorboard)."""

    def __post_init__(self) -> None:
        if not 0 < self.warmup_steps < self.steps:
            raise ConfigError("train.warmup-steps must be positive and below train.steps")
        if not 0 <= self.decay_share <= 1 or not 0 <= self.average < 1:
            raise ConfigError("train.decay-share is between 0 and 1, train.average at least 0 and below 1")
        if self.report_steps < 1 or self.checkpoint_steps < 1 or self.heldout < 0:
            raise ConfigError("train.report-steps and checkpoint-steps must be at least 1, heldout at least 0")

    def rate(self, step: int, peak: float) -> float:
        """Learning rate of a step, counted from 0."""
        return learning_rate(
            step, peak=peak, warmup_steps=self.warmup_steps, steps=self.steps, decay_share=self.decay_share
        )
