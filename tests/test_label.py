"""Phones as targets: frames of a store, and pre-training that is guided by them where they are known."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lhotse import CutSet

from tests.toy_corpus import write_toy_corpus
from tests.toy_tokenizer import toy_tokenizer
from voxtok.manifests.cuts import load_cuts, save_cuts
from voxtok.manifests.store import TokenStore
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import CorruptFile, ManifestError
from voxtok.runtime.files import read_json, read_jsonl
from voxtok.tokenize.centering import Centering
from voxtok.tokenize.crops import UNKNOWN, Batch, load_corpus
from voxtok.tokenize.encode import encode_corpus
from voxtok.tokenize.heads import Heads
from voxtok.tokenize.label import LabelConfig, frame_labels, label, main, pauses
from voxtok.tokenize.phones import Phone
from voxtok.tokenize.pretrain import masked_prediction
from voxtok.tokenize.student import Shape, new_model


def test_worked_example() -> None:
    codes = frame_labels([Phone("a", 0.1, 0.2)], 21, 2, {"SIL": 0, "a_0": 1, "a_1": 2})
    assert codes.tolist() == [0] * 9 + [1] * 5 + [2] * 5 + [0] * 2


@given(st.lists(st.floats(0.005, 0.3), min_size=1, max_size=8), st.integers(1, 4))
def test_every_frame_has_the_part_of_the_phone_at_its_centre(lengths_s: list[float], parts: int) -> None:
    ends = np.cumsum(lengths_s)
    phones = [Phone(str(i), end - length, end) for i, (end, length) in enumerate(zip(ends, lengths_s, strict=True))]
    ids = {"SIL": 0} | {f"{i}_{part}": 1 + i * parts + part for i in range(len(phones)) for part in range(parts)}
    codes = frame_labels(phones, 300, parts, ids)
    for frame, code in enumerate(codes.tolist()):
        centre_s = (frame * 160 + 200) / 16000
        inside = [i for i, phone in enumerate(phones) if phone.start_s <= centre_s < phone.end_s]
        where = -1.0 if not inside else parts * (centre_s - phones[inside[0]].start_s) / lengths_s[inside[0]]
        if abs(where - round(where)) < 1e-6 or (not inside and centre_s < ends[-1] + 1e-6):
            continue  # a frame on a boundary, where rounding decides
        assert code == (0 if not inside else 1 + inside[0] * parts + math.floor(where))


def test_of_equal_ids_the_first_is_labelled_and_a_killed_run_is_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts = list(load_cuts(write_toy_corpus(tmp_path, [1.0, 1.2])))
    told = LabelConfig(cuts=str(tmp_path / "twice.jsonl"), out=str(tmp_path / "phones"), of="phones")
    save_cuts(told.cuts, [cuts[0], cuts[1].with_id(cuts[0].id)])
    store = label(told)
    assert [cut.duration for cut, _ in store] == [1.0]
    assert [row["reason"] for row in read_jsonl(store.folder / "rejected.jsonl")] == ["duplicate id"]

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TokenStore, "write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        label(told)
    with pytest.raises(CorruptFile, match="has not finished"):
        TokenStore.open(told.out)


def test_a_store_of_phones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cuts = write_toy_corpus(tmp_path / "corpus", [1.0, 1.2])
    assert main(["--of", "phones", "--cuts", str(cuts), "--out", str(tmp_path / "phones"), "--parts", "3"]) == 0
    assert "2 utterances" in capsys.readouterr().out
    store = TokenStore.open(tmp_path / "phones")
    names = read_json(store.folder / "labels.json")
    assert names[0] == "SIL" and store.vocab_size == len(names)
    for (_, tokens), cut in zip(store, load_cuts(cuts), strict=True):
        assert len(tokens) == round(cut.duration * 100)
        spoken = {names[code].split("_")[0] for code in tokens.codes[:, 0].tolist()} - {"SIL"}
        assert spoken == {item.symbol for item in cut.supervisions[0].alignment["phone"]}


def test_pauses_are_the_quiet_stretches_but_not_short_ones() -> None:
    rng = np.random.default_rng(0)
    samples = 0.1 * rng.standard_normal(32000)
    samples[8000:16000] *= 0.01  # half a second 40 dB below
    samples[24000:24960] *= 0.01  # 60 ms, as long as a stop
    found = pauses(samples.astype(np.float32))
    expected = np.zeros(200, dtype=bool)
    expected[54:95] = True  # frames 50 to 98 see quiet samples alone; those with a louder neighbour do not count
    assert abs(int(found.sum()) - 41) <= 2
    assert not (found.astype(bool) & ~np.convolve(expected, np.ones(5), "same").astype(bool)).any()


def test_cuts_without_phones_are_rejected_and_if_all_are_it_is_an_error(tmp_path: Path) -> None:
    first, second = load_cuts(write_toy_corpus(tmp_path / "corpus", [1.0, 1.1]))
    first.supervisions[0].alignment = None
    CutSet.from_cuts([first, second]).to_file(tmp_path / "cuts.jsonl.gz")
    store = label(LabelConfig(of="phones", cuts=str(tmp_path / "cuts.jsonl.gz"), out=str(tmp_path / "phones")))
    assert [cut.id for cut, _ in store] == [second.id]
    assert [row["id"] for row in read_jsonl(store.folder / "rejected.jsonl")] == [first.id]

    CutSet.from_cuts([first]).to_file(tmp_path / "none.jsonl.gz")
    with pytest.raises(ManifestError, match="alignment"):
        label(LabelConfig(of="phones", cuts=str(tmp_path / "none.jsonl.gz"), out=str(tmp_path / "none")))


def test_utterances_without_labels_are_kept_and_do_not_count(tmp_path: Path) -> None:
    cuts = list(load_cuts(write_toy_corpus(tmp_path / "corpus", [1.0, 1.1, 1.2])))
    encode_corpus(cuts, toy_tokenizer(12), tmp_path / "tokens", shard_size=4)
    CutSet.from_cuts(cuts[:1]).to_file(tmp_path / "some.jsonl.gz")
    phones = label(LabelConfig(of="phones", cuts=str(tmp_path / "some.jsonl.gz"), out=str(tmp_path / "phones")))
    corpus = load_corpus([TokenStore.open(tmp_path / "tokens")], [phones], memory_gb=1)
    assert [int(utterance.codes[1].min()) for utterance in corpus.utterances] == [0, UNKNOWN, UNKNOWN]

    torch.manual_seed(0)
    shape = Shape(
        width=16, blocks=1, heads=1, inner=16, channels=(8, 8), kernels=(80, 5), strides=(80, 4), positions=2,
        position_groups=2,
    )  # fmt: skip
    model = new_model(shape).eval()
    heads = Heads(1, 16, corpus.vocab_sizes)
    waveforms, mask = torch.randn(2, 3600), torch.ones(2, 11, dtype=torch.bool)
    targets = torch.zeros(2, 11, 2, dtype=torch.int64)

    assert [item.cut.id for item in corpus.others] == [cut.id for cut in cuts[1:]]

    def loss(known: torch.Tensor) -> float:
        batch = Batch(waveforms, known, mask, waveforms)
        return masked_prediction(model, heads, (1,), 0.0, Centering(0.0, 12, Ranks()), batch)["loss"][0].item()

    silent, other = targets.clone(), targets.clone()
    silent[1, :, 1] = UNKNOWN
    other[1, :, 1] = 1
    logits = heads([model(waveforms, mask_time_indices=mask).last_hidden_state.reshape(22, 16)])[0][1]
    missing = torch.nn.functional.cross_entropy(logits[11:], targets[1, :, 1], reduction="sum").item() / 2
    assert loss(targets) - loss(silent) == pytest.approx(missing, rel=1e-4)
    assert loss(other) != pytest.approx(loss(targets), rel=1e-6)
