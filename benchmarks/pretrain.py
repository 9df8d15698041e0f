"""Masked-prediction training against a loop over transformers' Wav2Vec2ForPreTraining, in hours of audio per hour.

The peer does what transformers' own example script does (run_wav2vec2_pretraining_no_trainer.py): 8 utterances a batch
in random order, padded to the longest, span masks and 100 negatives from its helper functions, contrastive and
diversity loss, AdamW, float32. Both train a network of one shape on the same utterances: noise, with the lengths of
LibriSpeech (0.5-16 s, mostly 12-16 s), in one process with one thread, and CPU time is measured. Rows of voxtok add one
thing after another: `same` is float32 and whole utterances, then bfloat16, crops of 4 s, and a frozen front.

On one core of an AMD EPYC with AVX-512 bfloat16, shared with other work, 8 steps of hubert-mini's shape, hours of audio
per hour: transformers 4.8, without its contrastive loss (the encoder alone, on a mean square) 16.3; voxtok 46.9 (9.8 x
and 2.9 x), in bfloat16 49.5, with crops of 4 s 73.5, with a frozen front 99.3 (20.8 x).

    OMP_NUM_THREADS=1 python -m benchmarks.pretrain                  # hubert-mini's shape
    OMP_NUM_THREADS=1 python -m benchmarks.pretrain --shape base     # HuBERT base's, with its 512 channels
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch
from lhotse.cut import MonoCut
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForPreTraining
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

from voxtok.runtime.distributed import Ranks
from voxtok.runtime.training import Clock
from voxtok.tokenize.crops import RATE, Corpus, CropConfig, Utterance, batches
from voxtok.tokenize.pretrain import PretrainConfig, build
from voxtok.tokenize.student import Shape, architecture_of, save_model, start_model
from voxtok.tokenize.train import TrainConfig, update

MINI = Shape(
    width=192, blocks=5, heads=4, inner=768, channels=(160, 192, 256), kernels=(320, 2, 2), strides=(80, 2, 2),
    positions=32, position_groups=16,
)  # fmt: skip
BASE = Shape(
    width=768, blocks=12, heads=12, inner=3072, channels=(512,) * 7, kernels=(10, 3, 3, 3, 3, 2, 2),
    strides=(5, 2, 2, 2, 2, 2, 2), positions=128, position_groups=16,
)  # fmt: skip
VOCAB_SIZES = (100, 200)
NEGATIVES = 100


def main(argv: list[str]) -> int:
    """Parse the options and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("mini", "base"), default="mini")
    parser.add_argument("--steps", type=int, default=12, help="batches of each loop; the first two are not counted")
    parser.add_argument("--batch-s", type=float, default=96.0, help="seconds of audio in a batch of voxtok's")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    shape = MINI if options.shape == "mini" else BASE
    utterances = librispeech_like(200, np.random.default_rng(0))
    peer = peer_speed(shape, utterances, options.steps, contrastive=True)
    print(f"{'loop':32} {'hours per hour':>14} {'ratio':>6}  share of the time")
    print(f"{'transformers':32} {peer:14.1f} {1.0:6.2f}")
    encoder = peer_speed(shape, utterances, options.steps, contrastive=False)
    print(f"{'transformers, without its loss':32} {encoder:14.1f} {encoder / peer:6.2f}", flush=True)
    corpus = as_corpus(utterances)
    for name, dtype, crop_s, frozen in (
        ("voxtok, same", "float32", 16.0, False),
        ("+ bfloat16", "bfloat16", 16.0, False),
        ("+ crops of 4 s", "bfloat16", 4.0, False),
        ("+ frozen front", "bfloat16", 4.0, True),
    ):
        crops = CropConfig(batch_s=options.batch_s, crop_s=crop_s, mask_share=0.8, mask_frames=10)
        speed, shares = own_speed(shape, corpus, crops, dtype, frozen, options.steps)
        print(f"{name:32} {speed:14.1f} {speed / peer:6.2f}  {shares}", flush=True)
    return 0


def librispeech_like(count: int, rng: np.random.Generator) -> list[npt.NDArray[np.int16]]:
    """Noise whose durations are skewed to long ones, as LibriSpeech's: a mean of about 12 s, 16 s at most."""
    durations_s = np.clip(16.2 - rng.gamma(1.3, 3.2, count), 1.5, 16.0)
    return [rng.normal(0, 3000, int(duration_s * RATE)).astype(np.int16) for duration_s in durations_s]


def as_corpus(utterances: list[npt.NDArray[np.int16]]) -> Corpus:
    """The same utterances with random tokens, 100 a second."""
    rng = np.random.default_rng(1)
    rows = [
        Utterance(
            MonoCut(str(i), 0, len(samples) / RATE, 0),
            len(samples),
            samples,
            tuple(rng.integers(0, size, (len(samples) // 160, 1)) for size in VOCAB_SIZES),
        )
        for i, samples in enumerate(utterances)
    ]
    return Corpus(rows, VOCAB_SIZES, (160.0, 160.0))


def own_speed(
    shape: Shape, corpus: Corpus, crops: CropConfig, dtype: str, frozen: bool, steps: int
) -> tuple[float, str]:
    """Hours of audio per hour of the loop of `voxtok pretrain`, and its parts."""
    with TemporaryDirectory() as folder:
        save_model(start_model(shape, None, torch.device("cpu")), Path(folder, "init"), torch.float32)
        config = PretrainConfig(
            stores=("random",), out=folder, model=shape, crops=crops, device="cpu", frozen_front=frozen,
            init=str(Path(folder, "init")),
            train=TrainConfig(
                steps=steps, peak_lr=1e-4, warmup_steps=1, decay_share=0.0,
                dtype="bfloat16" if dtype == "bfloat16" else "float32",
            ),
        )  # fmt: skip
        trainee = build(config, corpus, torch.device("cpu"), Ranks())
    trainee.model.train()
    optimizer = torch.optim.AdamW(trainee.parameters(), lr=1e-4, fused=True)
    recipes = batches(corpus, crops, 0, Ranks(), architecture_of(trainee.model), 0)
    audio_s = spent_s = 0.0
    clock = Clock(torch.device("cpu"))
    for step in range(steps):
        if step == 2:
            audio_s = spent_s = 0.0
            clock = Clock(torch.device("cpu"))
        begin_s = time.process_time()
        batch = next(recipes)()
        clock.lap("data")
        update(trainee, optimizer, batch, step, config.train, Ranks(), clock)
        spent_s += time.process_time() - begin_s
        audio_s += batch.duration_s
    shares = clock.report(audio_s)
    parts = ("data", "forward", "backward", "update")
    return audio_s / spent_s, ", ".join(f"{part} {shares[f'share_{part}']:.0%}" for part in parts)


def peer_speed(shape: Shape, utterances: list[npt.NDArray[np.int16]], steps: int, *, contrastive: bool) -> float:
    """Hours of audio per hour of the example script's loop, padding not counted as audio.

    Without `contrastive` there are no negatives and no quantizer: the encoder alone is trained, on a mean square.
    """
    config = Wav2Vec2Config(
        hidden_size=shape.width, num_hidden_layers=shape.blocks, num_attention_heads=shape.heads,
        intermediate_size=shape.inner, conv_dim=shape.channels, conv_kernel=shape.kernels, conv_stride=shape.strides,
        num_conv_pos_embeddings=shape.positions, num_conv_pos_embedding_groups=shape.position_groups,
        feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True, num_negatives=NEGATIVES,
        codevector_dim=shape.width, proj_codevector_dim=shape.width,
    )  # fmt: skip
    model = Wav2Vec2ForPreTraining(config)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    audio_s = spent_s = 0.0
    for step, batch in enumerate(peer_batches(utterances, steps)):
        begin_s = time.process_time()
        inputs = extractor(batch, sampling_rate=RATE, padding="longest", return_tensors="pt")
        frames = int(model._get_feat_extract_output_lengths(inputs["input_values"].shape[1]))
        attended = model._get_feature_vector_attention_mask(frames, inputs["attention_mask"])
        masked = _compute_mask_indices((len(batch), frames), 0.65, 10, attention_mask=attended, min_masks=2)
        if contrastive:
            negatives = torch.from_numpy(_sample_negative_indices((len(batch), frames), NEGATIVES, masked))
            masks = torch.from_numpy(masked)
            loss = model(**inputs, mask_time_indices=masks, sampled_negative_indices=negatives).loss / masked.sum()
        else:
            hidden = model.wav2vec2(**inputs, mask_time_indices=torch.from_numpy(masked)).last_hidden_state
            loss = hidden.square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step >= 2:
            spent_s += time.process_time() - begin_s
            audio_s += sum(len(samples) for samples in batch) / RATE
    return audio_s / spent_s


def peer_batches(utterances: list[npt.NDArray[np.int16]], steps: int) -> Iterator[list[npt.NDArray[np.float32]]]:
    """Batches of 8 utterances in random order."""
    order = np.random.default_rng(2).permutation(len(utterances))
    for step in range(steps):
        yield [utterances[i].astype(np.float32) / 32768 for i in order[8 * step : 8 * step + 8]]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
