"""A folder of made recordings: what is done stays, whoever made it; what others' options made is made again."""

from pathlib import Path

import numpy as np
from lhotse.cut import MonoCut

from voxtok.manifests.cuts import load_cuts
from voxtok.runtime.distributed import Ranks
from voxtok.runtime.errors import BadAudio
from voxtok.vocoder.audio_folder import AudioFolder, Order

RATE = 16000


def run(out: Path, inputs: str, ranks: int) -> tuple[int, dict[str, int] | None]:
    """Fill a folder with four recordings as loud as `inputs`; how many were made, and the last rank's counts."""
    made, counts = 0, None
    for rank in range(ranks):
        orders = [Order(MonoCut(f"utt{i}", 0, 1, 0), inputs, None) for i in range(4)]
        folder = AudioFolder(out, orders, [], Ranks(rank, ranks))
        for order in folder.open_orders():
            folder.add(order, np.full(RATE, float(inputs), dtype=np.float32), RATE)
            made += 1
        counts = folder.finish()
    return made, counts


def loudness(out: Path) -> list[float]:
    return [round(float(cut.load_audio().mean()), 2) for cut in load_cuts(out)]


def test_other_options_on_another_number_of_ranks_make_all_again(tmp_path: Path) -> None:
    for inputs, ranks in (("0.25", 2), ("0.5", 1), ("0.25", 2), ("0.75", 3)):
        assert run(tmp_path, inputs, ranks) == (4, {"utterances": 4, "rejected": 0})
        assert loudness(tmp_path) == [float(inputs)] * 4
        assert run(tmp_path, inputs, 1) == (0, {"utterances": 4, "rejected": 0})


def test_a_manifest_of_before_goes_as_soon_as_there_is_something_to_make(tmp_path: Path) -> None:
    run(tmp_path, "0.25", 1)
    orders = [Order(MonoCut("utt0", 0, 1, 0), "0.5", None)]
    folder = AudioFolder(tmp_path, orders, [], Ranks())
    assert folder.open_orders() == orders
    assert not (tmp_path / "cuts.jsonl.gz").exists()
    folder.add(orders[0], BadAudio("utt0", "empty", "no tokens"), RATE)
    assert not folder.path("utt0").exists()  # nor does its waveform of before stay
    assert folder.finish() == {"utterances": 0, "rejected": 1}


def test_the_speaker_of_an_order_is_kept_where_its_source_has_no_text(tmp_path: Path) -> None:
    folder = AudioFolder(tmp_path, [Order(MonoCut("utt0", 0, 1, 0), "x", "p225")], [], Ranks())
    for order in folder.open_orders():
        folder.add(order, np.zeros(RATE, dtype=np.float32), RATE)
    folder.finish()
    (cut,) = load_cuts(tmp_path)
    assert [(one.speaker, one.duration, one.text) for one in cut.supervisions] == [("p225", 1.0, None)]


def test_long_ids_have_files_of_their_own(tmp_path: Path) -> None:
    """A Chinese character takes 9 bytes of a quoted name: these have 360."""
    orders = [Order(MonoCut("\u8a9e" * 39 + end, 0, 1, 0), "x", None) for end in "\u4e00\u4e8c"]
    folder = AudioFolder(tmp_path, orders, [], Ranks())
    for order in folder.open_orders():
        folder.add(order, np.zeros(RATE, dtype=np.float32), RATE)
    assert folder.finish() == {"utterances": 2, "rejected": 0}
    assert len(list((tmp_path / "audio").iterdir())) == 2
    assert [cut.id for cut in load_cuts(tmp_path)] == [order.source.id for order in orders]
