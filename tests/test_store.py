"""The token store: plain Lhotse reads it, bytes repeat, shards are redone when what went in changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.utils import fastcopy

from tests.toy_corpus import write_toy_corpus
from voxtok.manifests.cuts import load_cuts
from voxtok.manifests.export import Form, export, load_flat
from voxtok.manifests.identity import bare
from voxtok.manifests.store import StoreInfo, TokenStore
from voxtok.manifests.tokens import TokenSequence, smallest_dtype
from voxtok.runtime.errors import ConfigError, CorruptFile
from voxtok.tokenize.encode import EncodeConfig
from voxtok.tokenize.label import LabelConfig

VOCAB = 300


lhotse_leaves_its_tar_open = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> list[Cut]:
    return list(load_cuts(write_toy_corpus(tmp_path_factory.mktemp("toy"), [0.5, 1.0, 0.7, 0.3, 0.9])))


def tokens_of(cut: Cut, dedup: bool = False) -> TokenSequence:
    rng = np.random.default_rng(int(cut.duration * 1000))
    codes = np.repeat(rng.integers(0, VOCAB, round(cut.duration * 25)), 2)[: round(cut.duration * 50)]
    tokens = TokenSequence(codes[:, None].astype(smallest_dtype(VOCAB)), 50.0, "f")
    return tokens.dedup() if dedup else tokens


def write(folder: Path, cuts: list[Cut], dedup: bool = False, shard_size: int = 2) -> TokenStore:
    info = StoreInfo(fingerprint="f", frame_rate_hz=50.0, vocab_sizes=(VOCAB,), dedup=dedup, shard_size=shard_size)
    store = TokenStore.create(folder, info)
    shards = [cuts[i : i + shard_size] for i in range(0, len(cuts), shard_size)]
    for shard, members in enumerate(shards):
        store.write_shard(shard, [(cut, tokens_of(cut, dedup)) for cut in members], [], inputs="x")
    store.finish(["x"] * len(shards))
    return TokenStore.open(folder)


@pytest.mark.parametrize("dedup", [False, True])
def test_what_was_written_comes_back(dedup: bool, cuts: list[Cut], tmp_path: Path) -> None:
    store = write(tmp_path / "s", cuts, dedup)
    found = list(store)
    assert [cut.id for cut, _ in found] == [cut.id for cut in cuts]
    for cut, tokens in found:
        expected = tokens_of(cut, dedup)
        assert np.array_equal(tokens.codes, expected.codes) and tokens.codes.dtype == np.uint16
        assert np.array_equal(tokens.expand().codes, tokens_of(cut).codes)
    assert store.summary["frames"] == sum(len(tokens_of(cut)) for cut in cuts)


@lhotse_leaves_its_tar_open
def test_plain_lhotse_reads_tokens_and_audio(cuts: list[Cut], tmp_path: Path) -> None:
    write(tmp_path / "s", cuts)
    for cut in CutSet.from_shar(in_dir=tmp_path / "s" / "shar"):
        assert np.array_equal(cut.load_tokens(), tokens_of(cut).codes)
        assert cut.load_audio().shape == (1, cut.num_samples)
        assert cut.supervisions[0].alignment["phone"]


@lhotse_leaves_its_tar_open
def test_a_cut_inside_a_recording_keeps_its_tokens(cuts: list[Cut], tmp_path: Path) -> None:
    """Lhotse's own writer puts the array's start at 0, so a cut that begins at 0.2 s would lose its first 10 frames."""
    part = cuts[1].truncate(offset=0.2, duration=0.6)
    write(tmp_path / "s", [part])
    (found,) = CutSet.from_shar(in_dir=tmp_path / "s" / "shar")
    assert np.array_equal(found.load_tokens(), tokens_of(part).codes)
    half = found.truncate(offset=0.2, duration=0.2)
    assert np.array_equal(half.load_tokens(), tokens_of(part).codes[10:20])


def test_equal_tokens_give_equal_bytes(cuts: list[Cut], tmp_path: Path) -> None:
    trees = []
    for name in ("a", "b"):
        write(tmp_path / name, cuts, dedup=True)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        trees.append({path.relative_to(tmp_path / name): path.read_bytes() for path in files})
    assert trees[0] == trees[1] and len(trees[0]) == 3 * 3 + 2 * 3 + 3


def test_an_unfinished_store_cannot_be_read(cuts: list[Cut], tmp_path: Path) -> None:
    store = write(tmp_path / "s", cuts)
    (tmp_path / "s" / "summary.json").unlink()
    with pytest.raises(CorruptFile, match="has not finished"):
        TokenStore.open(tmp_path / "s")
    assert store.finish(["x"] * 4) is None
    assert store.finish(["x", "changed", "x"]) is None
    assert store.finish(["x"] * 3) is not None


def test_a_shorter_corpus_leaves_no_old_shards(cuts: list[Cut], tmp_path: Path) -> None:
    store = write(tmp_path / "s", cuts)
    store.finish(["x"])
    assert [cut.id for cut, _ in TokenStore.open(tmp_path / "s")] == [cut.id for cut in cuts[:2]]


def test_shards_that_a_kill_left_without_a_mark_are_dropped(cuts: list[Cut], tmp_path: Path) -> None:
    """The fourth shard of five lacked its mark, of the fifth there was one array; then shards became larger."""
    write(tmp_path / "s", cuts, shard_size=1, dedup=True)
    (tmp_path / "s" / "summary.json").unlink()
    for shard in (3, 4):
        (tmp_path / "s" / "done" / f"00000{shard}.json").unlink()
    for name in ("shar/cuts.000004.jsonl.gz", "shar/durations.000004.tar", "done/rejected.000004.jsonl"):
        (tmp_path / "s" / name).unlink()
    assert len(list(write(tmp_path / "s", cuts, dedup=True))) == len(cuts)
    write(tmp_path / "new", cuts, dedup=True)
    left, new = ({file.relative_to(tmp_path / name) for file in (tmp_path / name).rglob("*")} for name in ("s", "new"))
    assert {str(file) for file in left ^ new} == set()


@pytest.mark.parametrize("source", ["shar", "shar/cuts.000000.jsonl.gz"])
def test_a_store_is_not_written_over_the_cuts_it_is_made_of(source: str, cuts: list[Cut], tmp_path: Path) -> None:
    folder = str(write(tmp_path / "s", cuts).folder)
    with pytest.raises(ConfigError, match="would overwrite"):
        EncodeConfig(tokenizer="t", cuts=f"{folder}/{source}", out=f"{folder}/../s")
    with pytest.raises(ConfigError, match="would overwrite"):
        LabelConfig(of="phones", cuts=f"{folder}/{source}", out=folder)
    assert LabelConfig(of="phones", cuts=f"{folder}/{source}", out=f"{folder}/phones").parts == 1


def test_other_folders_are_named_errors(tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match="not a token store"):
        TokenStore.open(tmp_path)
    for content, expected in {
        '{"format": "voxtok-tokens", "version": 99}': "version 1",
        '{"format": "voxtok-tokens", "version": 1}': "does not say fingerprint",
        "rubbish": "JSON",
    }.items():
        (tmp_path / "store.json").write_text(content)
        with pytest.raises(CorruptFile, match=expected):
            TokenStore.open(tmp_path)


def test_a_damaged_store_is_written_anew(cuts: list[Cut], tmp_path: Path) -> None:
    write(tmp_path / "s", cuts)
    (tmp_path / "s" / "store.json").write_text("rubbish")
    assert len(list(write(tmp_path / "s", cuts))) == len(cuts)


def test_a_shard_with_fewer_arrays_than_cuts_is_a_named_error(cuts: list[Cut], tmp_path: Path) -> None:
    store = write(tmp_path / "s", cuts)
    store.path("tokens", 0).write_bytes(store.path("tokens", 2).read_bytes())
    with pytest.raises(CorruptFile, match="where the cuts have"):
        list(store)


@pytest.mark.parametrize("keep", [0, 700, 2000, 4096, 10239])
def test_a_damaged_tar_was_an_unnamed_error(keep: int, cuts: list[Cut], tmp_path: Path) -> None:
    store = write(tmp_path / "s", cuts)
    path = store.path("tokens", 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:keep] if keep else b"r" * len(whole))
    with pytest.raises(CorruptFile, match=r"tokens\.000001\.tar"):
        list(store)


@pytest.mark.parametrize("name", ["store.json", "summary.json"])
def test_damaged_json_was_an_unnamed_error(name: str, cuts: list[Cut], tmp_path: Path) -> None:
    write(tmp_path / "s", cuts)
    (tmp_path / "s" / name).write_text("{")
    with pytest.raises(CorruptFile, match=f"{name} is not JSON"):
        TokenStore.open(tmp_path / "s").summary["frames"]


def test_text_lines(cuts: list[Cut], tmp_path: Path) -> None:
    export(write(tmp_path / "s", cuts), "text", tmp_path / "text")
    for line, cut in zip((tmp_path / "text").read_text().splitlines(), cuts, strict=True):
        name, *words = line.split()
        assert name == cut.id and [int(word) for word in words] == tokens_of(cut).codes[:, 0].tolist()


def test_kaldi_folder_is_sorted_and_complete(cuts: list[Cut], tmp_path: Path) -> None:
    export(write(tmp_path / "s", list(reversed(cuts))), "kaldi", tmp_path / "k")
    ids = [line.split()[0] for line in (tmp_path / "k" / "text").read_text().splitlines()]
    assert ids == sorted(cut.id for cut in cuts)
    assert (tmp_path / "k" / "utt2spk").read_text().splitlines()[0] == "utt000 s0"
    assert (tmp_path / "k" / "spk2utt").read_text().splitlines() == ["s0 utt000 utt002 utt004", "s1 utt001 utt003"]
    assert (tmp_path / "k" / "utt2dur").read_text().splitlines()[0] == "utt000 0.5000"


def test_fairseq_files(cuts: list[Cut], tmp_path: Path) -> None:
    export(write(tmp_path / "s", cuts), "fairseq", tmp_path / "f")
    root, *rows = (tmp_path / "f" / "tokens.tsv").read_text().splitlines()
    labels = (tmp_path / "f" / "tokens.km").read_text().splitlines()
    for row, label, cut in zip(rows, labels, cuts, strict=True):
        path, samples = row.split("\t")
        assert (Path(root) / path).is_file() and int(samples) == cut.num_samples
        assert [int(word) for word in label.split()] == tokens_of(cut).codes[:, 0].tolist()
    assert len((tmp_path / "f" / "dict.km.txt").read_text().splitlines()) == VOCAB


@pytest.mark.parametrize("dedup", [False, True])
def test_parquet_table(dedup: bool, cuts: list[Cut], tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    export(write(tmp_path / "s", cuts, dedup), "parquet", tmp_path / "t.parquet")
    table = parquet.read_table(tmp_path / "t.parquet")
    assert table.schema.metadata[b"fingerprint"] == b"f"
    for row, cut in zip(table.to_pylist(), cuts, strict=True):
        tokens = tokens_of(cut, dedup)
        assert row["id"] == cut.id and row["codes"] == tokens.codes[:, 0].tolist()
        assert tokens.durations is None or row["durations"] == tokens.durations.tolist()


@pytest.mark.parametrize("dedup", [False, True])
def test_flat_arrays_are_memory_mapped(dedup: bool, cuts: list[Cut], tmp_path: Path) -> None:
    export(write(tmp_path / "s", cuts, dedup), "flat", tmp_path / "flat")
    flat = load_flat(tmp_path / "flat")
    assert isinstance(flat.tokens, np.memmap) and flat.tokens.dtype == np.uint16 and flat.fingerprint == "f"
    assert len(flat) == len(cuts)
    for i, cut in enumerate(cuts):
        assert np.array_equal(flat[i], tokens_of(cut, dedup).codes)
    assert (flat.frame_rate_hz, flat.vocab_sizes) == (50.0, (VOCAB,)) and (flat.durations is not None) == dedup
    if flat.durations is not None:
        assert flat.durations.sum() == sum(len(tokens_of(cut)) for cut in cuts)
    (tmp_path / "flat" / "flat.json").write_text('{"format": "voxtok-flat", "version": 2}')
    with pytest.raises(CorruptFile, match="expected voxtok-flat version 1, found voxtok-flat version 2"):
        load_flat(tmp_path / "flat")


def test_white_space_made_invalid_kaldi_lines(cuts: list[Cut], tmp_path: Path) -> None:
    cut = fastcopy(cuts[0], supervisions=[fastcopy(cuts[0].supervisions[0], speaker="Anna  Maria")])
    export(write(tmp_path / "a", [cut]), "kaldi", tmp_path / "k")
    assert (tmp_path / "k" / "utt2spk").read_text() == "utt000 Anna_Maria\n"
    assert (tmp_path / "k" / "spk2utt").read_text() == "Anna_Maria utt000\n"
    store = write(tmp_path / "b", [fastcopy(cut, id="utt 0")])
    forms: list[Form] = ["kaldi", "text"]
    for form in forms:
        with pytest.raises(ConfigError, match="'utt 0' has white space"):
            export(store, form, tmp_path / form)


@pytest.mark.parametrize("kind", ["start", "end", "resampled", "faster"])
def test_fairseq_was_given_the_whole_file_of_a_part(kind: str, cuts: list[Cut], tmp_path: Path) -> None:
    changed = {
        "start": cuts[1].truncate(offset=0.2),
        "end": cuts[1].truncate(duration=0.5),
        "resampled": cuts[1].resample(8000),
        "faster": cuts[1].perturb_speed(1.1),
    }[kind]
    with pytest.raises(ConfigError, match=r"of its recording, and fairseq's \.tsv names whole files"):
        export(write(tmp_path / "s", [cuts[0], changed]), "fairseq", tmp_path / "f")


def test_fairseq_was_given_a_path_none(cuts: list[Cut], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="utt000 has no recording of its own"):
        export(write(tmp_path / "s", [bare(cuts[0].pad(duration=2.0, preserve_id=True))]), "fairseq", tmp_path / "f")


def two_streams(folder: Path, cuts: list[Cut]) -> TokenStore:
    info = StoreInfo(fingerprint="f", frame_rate_hz=50.0, vocab_sizes=(4, 4), dedup=False, shard_size=9)
    store = TokenStore.create(folder, info)
    codes = np.array([[1, 2], [3, 0]], dtype=np.uint8)
    store.write_shard(0, [(cut, TokenSequence(codes, 50.0, "f")) for cut in cuts], [], inputs="x")
    store.finish(["x"])
    return TokenStore.open(folder)


def test_several_streams_are_kept_or_refused(cuts: list[Cut], tmp_path: Path) -> None:
    store = two_streams(tmp_path / "s", cuts)
    export(store, "text", tmp_path / "text")
    assert (tmp_path / "text").read_text().splitlines()[0] == "utt000 1,2 3,0"
    export(store, "flat", tmp_path / "flat")
    assert load_flat(tmp_path / "flat")[1].tolist() == [[1, 2], [3, 0]]
    refuse: list[Callable[[], object]] = [lambda: export(store, "fairseq", tmp_path / "f"), lambda: store.vocab_size]
    for action in refuse:
        with pytest.raises(ConfigError, match="stream"):
            action()


def test_a_shard_that_another_rank_ends_while_this_one_looks_counts(
    cuts: list[Cut], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its summary would be deleted, and never written again."""
    store = write(tmp_path / "s", cuts)
    done, looked = TokenStore.done, [0]

    def late(self: TokenStore, shard: int, inputs: str) -> dict[str, Any] | None:
        looked[0] += 1
        return None if looked[0] == 1 else done(self, shard, inputs)

    monkeypatch.setattr(TokenStore, "done", late)
    assert store.finish(["x"] * 3) is not None
    assert len(list(TokenStore.open(tmp_path / "s"))) == 5


def test_a_shard_whose_file_is_gone_is_not_done(cuts: list[Cut], tmp_path: Path) -> None:
    store = write(tmp_path / "s", cuts)
    store.path("tokens", 1).unlink()
    assert store.done(1, "x") is None and store.done(0, "x") is not None
    assert store.finish(["x"] * 3) is None
    with pytest.raises(CorruptFile, match="has not finished"):
        TokenStore.open(tmp_path / "s")
