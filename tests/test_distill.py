"""Distillation: a student learns layers of a teacher; its front learns to be a filter bank."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import HubertModel

from tests.test_pretrain import SHAPE, losses
from tests.tiny_codecs import save_codec
from tests.tiny_models import save_tiny
from tests.toy_corpus import write_toy_corpus
from voxtok.manifests.cuts import load_cuts, save_cuts
from voxtok.runtime.errors import ConfigError
from voxtok.runtime.files import read_jsonl
from voxtok.tokenize.crops import CropConfig
from voxtok.tokenize.distill import DistillConfig, distill, teacher_frames
from voxtok.tokenize.filterbank import load_filterbank
from voxtok.tokenize.load import load_upstream
from voxtok.tokenize.student import new_model
from voxtok.tokenize.train import TrainConfig


def config(folder: Path, teacher: str, layers: tuple[int, ...], block: int, steps: int = 30) -> DistillConfig:
    cuts = write_toy_corpus(folder / "corpus", [1.0 + 0.1 * i for i in range(6)])
    return DistillConfig(
        cuts=str(cuts),
        teacher=teacher,
        layers=layers,
        out=str(folder / "out"),
        model=SHAPE,
        crops=CropConfig(batch_s=4.0, crop_s=1.0, mask_share=0.8, mask_frames=5),
        train=TrainConfig(steps=steps, peak_lr=3e-3, warmup_steps=1, decay_share=0.0, report_steps=1),
        block=block,
        device="cpu",
    )


def test_a_student_learns_layers_of_a_hubert_model(tmp_path: Path) -> None:
    teacher = save_tiny("hubert-large", tmp_path / "teacher")
    model = distill(config(tmp_path, str(teacher), (1, 3), block=2))
    rows = list(read_jsonl(tmp_path / "out" / "metrics.jsonl"))
    assert sum(row["l1"] for row in rows[-5:]) < 0.95 * sum(row["l1"] for row in rows[:5])
    assert rows[-1]["cosine"] > rows[0]["cosine"]
    assert load_upstream(str(model), device="cpu").num_layers == 2


def test_block_0_trains_the_front_alone(tmp_path: Path) -> None:
    front = config(tmp_path, "logmel", (0,), block=0)
    model = distill(front)
    assert losses(tmp_path / "out")[-1] < losses(tmp_path / "out")[0]
    torch.manual_seed(front.seed)
    before, after = new_model(SHAPE).state_dict(), HubertModel.from_pretrained(model).state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"feature_extractor", "feature_projection"}


def test_teacher_frames_are_those_under_the_students_centres() -> None:
    """Student frames centred at 200 and 520 samples see what MFCC's frames 0 and 2 see."""
    teacher = load_filterbank("mfcc", torch.device("cpu"))
    waveforms = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    whole = teacher.extract(waveforms, torch.tensor([4000, 4000]), [0])[0][0][:, [0, 2, 4]]
    (found,) = teacher_frames(teacher, waveforms, [0], torch.tensor([200.0, 520.0, 840.0]))
    expected = (whole - whole.mean(1, keepdim=True)) / (whole.std(1, keepdim=True) + 1e-5)
    torch.testing.assert_close(found, expected)


def test_a_rank_without_a_crop_has_no_teacher_frames() -> None:
    teacher = load_filterbank("logmel", torch.device("cpu"))
    (found,) = teacher_frames(teacher, torch.zeros(0, 4000), [0], torch.tensor([200.0, 520.0]))
    assert found.shape == (0, 2, 80)


def test_a_teacher_keeps_its_dtype_in_bfloat16_training(tmp_path: Path) -> None:
    teacher = load_upstream(str(save_tiny("hubert-large", tmp_path)), device="cpu")
    waveforms = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    centres = torch.tensor([200.0, 520.0])
    (expected,) = teacher_frames(teacher, waveforms, [1], centres)
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = teacher_frames(teacher, waveforms, [1], centres)
    assert torch.equal(found, expected)


def test_other_cuts_in_the_same_file_are_another_configuration(tmp_path: Path) -> None:
    first = config(tmp_path, "mfcc", (0,), block=0, steps=2)
    model = distill(first)
    moved = shutil.copy(first.cuts, tmp_path / "moved.jsonl.gz")
    assert distill(replace(first, cuts=str(moved))) == model
    save_cuts(first.cuts, list(load_cuts(first.cuts))[1:])
    with pytest.raises(ConfigError, match="another configuration"):
        distill(first)


def test_a_teacher_of_another_sampling_rate_is_refused(tmp_path: Path) -> None:
    teacher = save_codec("encodec", tmp_path / "teacher")
    with pytest.raises(ConfigError, match="24000 Hz"):
        distill(config(tmp_path, str(teacher), (0,), block=1, steps=2))


def test_impossible_layers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="block must be within"):
        config(tmp_path, "mfcc", (0,), block=3)
    with pytest.raises(ConfigError, match="layers needs"):
        config(tmp_path, "mfcc", (), block=1)
