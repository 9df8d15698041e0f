"""How long and how fast a recognizer is trained, what is kept of it, and when training ends."""

from dataclasses import dataclass
from typing import Literal

from voxtok.runtime.errors import ConfigError
from voxtok.runtime.training import inverse_sqrt_rate, learning_rate


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How long and how fast; everything but reports, checkpoints and threads changes the recognizer."""

    steps: int
    """Updates at most."""
    batch_frames: int
    """Input frames of a batch with their padding, over all ranks; an update takes `accumulate` batches."""
    peak_lr: float
    """Highest learning rate of AdamW."""
    warmup_steps: int
    """Updates until the highest learning rate."""
    decay: Literal["cosine", "inverse-sqrt"] = "cosine"
    """After the warm-up: a plateau and half a cosine to zero, or 1 / sqrt(step)."""
    decay_share: float = 1.0
    """Share of the steps, at the end, that the cosine takes."""
    accumulate: int = 1
    """Batches of an update."""
    weight_decay: float = 0.01
    """Of AdamW, on matrices."""
    max_gradient: float = 5.0
    """Norm at which gradients are clipped."""
    label_smoothing: float = 0.1
    """Of the attention decoder's targets."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of matrix products; weights stay float32."""
    average_decay: float = 0.0
    """Decay of the moving average of weights that is evaluated and kept; 0 takes the weights themselves."""
    average_best: int = 1
    """Best evaluations whose weights are averaged into the recognizer."""
    evaluate_steps: int = 500
    """Updates from one evaluation on the dev data to the next."""
    select_by: Literal["loss", "wer"] = "loss"
    """What makes an evaluation a better one; wer needs CTC."""
    patience: int = 0
    """Evaluations without a better one after which training stops early; 0 never does."""
    workers: int = 0
    """Threads that prepare batches ahead; 0 prepares them in between."""
    report_steps: int = 50
    """Updates from one line of metrics to the next."""
    checkpoint_steps: int = 500
    """Updates from one checkpoint to the next."""
    tensorboard: bool = False
    """Write TensorBoard's files too (pip install tensorboard)."""

    def __post_init__(self) -> None:
        if not 0 < self.warmup_steps < self.steps:
            raise ConfigError("train.warmup-steps must be positive and below train.steps")
        if not 0 <= self.decay_share <= 1 or not 0 <= self.average_decay < 1 or not 0 <= self.label_smoothing < 1:
            raise ConfigError("train.decay-share, average-decay and label-smoothing are between 0 and 1")
        least = (self.accumulate, self.average_best, self.evaluate_steps, self.report_steps, self.checkpoint_steps)
        if min(*least, self.batch_frames) < 1:
            raise ConfigError("train: accumulate, average-best, batch-frames and every ...-steps must be at least 1")
        if self.workers < 0:
            raise ConfigError("train.workers must be at least 0")

    def rate(self, step: int) -> float:
        """Learning rate of an update, counted from 0."""
        if self.decay == "inverse-sqrt":
            return inverse_sqrt_rate(step, peak=self.peak_lr, warmup_steps=self.warmup_steps)
        return learning_rate(
            step, peak=self.peak_lr, warmup_steps=self.warmup_steps, steps=self.steps, decay_share=self.decay_share
        )
