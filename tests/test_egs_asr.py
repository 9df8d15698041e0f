"""Recipes of recognition run as a user runs them: every stage, on miniatures."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from tests.test_egs import run
from tests.tiny_models import save_tiny
from tests.toy_corpus import RATE, toy_speech, write_toy_corpus
from tests.toy_tokenizer import toy_tokenizer, tree
from voxtok.manifests.cuts import load_cuts
from voxtok.runtime.files import read_json

WORDS = "THE CAT SAT ON A MAT AND ATE FISH".split()
SMALL = (
    "--model.encoder.blocks 1 --model.encoder.width 16 --model.encoder.heads 2 --model.encoder.inner 16 "
    "--model.encoder.kernel 3 --model.encoder.subsampling 1 --model.inputs.width 16 --model.decoder.blocks 1 "
    "--model.decoder.inner 16 --train.steps 3 --train.warmup_steps 1 --train.evaluate_steps 2 --train.batch_frames 400"
)


def write_mini_librispeech(folder: Path, parts: list[str]) -> None:
    """LibriSpeech as it is distributed: toy speech, and sentences of a few words."""
    for index, part in enumerate(parts):
        chapter = folder / part / f"{84 + index}" / "121123"
        chapter.mkdir(parents=True)
        lines = []
        for utterance in range(4):
            name = f"{84 + index}-121123-{utterance:04d}"
            sf.write(chapter / f"{name}.flac", toy_speech(1.5, seed=10 * index + utterance)[0], RATE)
            said = np.random.default_rng([index, utterance]).choice(WORDS, size=3)
            lines.append(f"{name} {' '.join(said)}\n")
        (chapter / f"{84 + index}-121123.trans.txt").write_text("".join(lines))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "stages", "kind", "train"),
    [
        ("librispeech_100", "run.sh", "tokens", ["train-clean-100"]),
        ("librispeech_100", "run.sh", "logmel", ["train-clean-100"]),
        ("librispeech", "asr.sh", "tokens", ["train-clean-100", "train-clean-360", "train-other-500"]),
    ],
)
def test_librispeech_to_text_in_miniature(
    tmp_path: Path, recipe: str, stages: str, kind: str, train: list[str]
) -> None:
    """Three speeds, a tiny WavLM, merged tokens and their subwords, training, joint decoding of a beam of 2."""
    write_mini_librispeech(tmp_path / "LibriSpeech", [*train, "dev-clean", "test-clean"])
    model = save_tiny("wavlm-large", tmp_path / "model")
    environment = {
        "EXP": str(tmp_path / "exp"),
        "CORPUS": str(tmp_path / "LibriSpeech"),
        "DEV": "dev-clean",
        "TEST": "test-clean",
        "INPUT": kind,
        "OPTIONS": f"--upstream {model} --layer 2 --vocab-size 8 --cache-gb 1",
        "PIECES": "12",
        "TEXT_PIECES": "15",
        "BEAM": "2",
        "ASR_OPTIONS": SMALL,
    }
    run(recipe, stages=stages, **environment)
    scored = read_json(tmp_path / "exp" / f"decode_{kind}" / "test-clean" / "score.json")
    assert scored["utterances"] == 4 and scored["missing"] == 0
    asr = read_json(tmp_path / "exp" / f"asr_{kind}" / "model" / "asr.json")
    assert asr["config"]["encoder"]["kind"] == "e-branchformer" and asr["config"]["ctc_weight"] == 0.3
    if kind == "tokens":
        assert asr["source"]["has_durations"] and asr["source"]["vocab_sizes"] == [12]
    if kind == "logmel":  # the shorter of the three, run again: nothing moves
        made = tree(tmp_path / "exp")
        run(recipe, stages=stages, **environment)
        assert tree(tmp_path / "exp") == made


@pytest.mark.slow
def test_tokens_against_logmel_in_miniature(tmp_path: Path) -> None:
    """Both recognizers of the speechocean recipe, of two updates, on toy speech of ten speakers and of two voices."""
    pytest.importorskip("espeakng_loader")
    write_toy_corpus(tmp_path / "real", [1.0 + 0.05 * index for index in range(20)], speakers=10)
    toy_tokenizer(upstream="mini", layer=1).save(tmp_path / "tokenizer")
    run(
        "speechocean",
        EXP=str(tmp_path / "exp"),
        DATA=str(tmp_path),
        CORPORA="real",
        TOKENIZER=str(tmp_path / "tokenizer"),
        SPEAKERS="2",
        UTTERANCES="2",
        STEPS="2",
    )
    for kind in ("tokens", "logmel"):
        assert read_json(tmp_path / "exp" / f"test_{kind}" / "score.json")


@pytest.mark.slow
def test_a_recognizer_to_judge_by_in_miniature(tmp_path: Path) -> None:
    """kathleen's recognizer of two updates: it hears no test utterance, and no 8th sentence, in training."""
    write_toy_corpus(tmp_path / "many", [1.0 + 0.05 * index for index in range(20)], speakers=10)
    write_toy_corpus(tmp_path / "test", [1.0 + 0.05 * index for index in range(3)])  # the first three of `many`
    write_toy_corpus(tmp_path / "one", [1.1 + 0.05 * index for index in range(8)], speakers=1, name="one")
    environment = {"DATA": str(tmp_path), "SPLIT": "many", "READ": "one", "TEST": "test", "STEPS": "2"}
    run("kathleen", stages="asr.sh", EXP=str(tmp_path), **environment)
    heard = {cut.id for cut in load_cuts(tmp_path / "asr" / "cuts" / "train.jsonl.gz")}
    read = [cut.id for cut in load_cuts(tmp_path / "one")]
    assert heard.isdisjoint(cut.id for cut in load_cuts(tmp_path / "test"))
    assert heard & set(read) == set(read) - {read[3]}
    assert read_json(tmp_path / "asr" / "test" / "score.json")["utterances"] == 3


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_synthetic_speech_to_text_in_miniature(tmp_path: Path) -> None:
    """Two voices, two updates by two processes, without each part of the augmentation too, and both searches."""
    pytest.importorskip("espeakng_loader")
    pytest.importorskip("kaldi_decoder")
    environment = {"SPEAKERS": "2", "UTTERANCES": "3", "STEPS": "2", "ABLATION": "1", "NPROC": "2"}
    run("synth", stages="asr.sh", EXP=str(tmp_path), **environment)
    trained = sorted(path.parent.parent.name for path in tmp_path.glob("asr/*/model/asr.json"))
    assert trained == ["no_augmentation", "no_dimension_masks", "no_frame_masks", "no_replacement", "recognizer"]
    for name in trained:
        for search in ("greedy", "graph"):
            assert read_json(tmp_path / "asr" / name / f"test_{search}" / "score.json")["missing"] == 0
