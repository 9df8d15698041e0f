"""WER and CER against the plain recurrence, and the files of `voxtok score`."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference_asr import edits
from tests.toy_corpus import write_toy_corpus
from voxtok.asr.normalization import TextNormalization
from voxtok.asr.references import Reference
from voxtok.asr.score import ScoringConfig, alignment, compare, main, score, summary, versus_line
from voxtok.asr.wer import Errors, align, bootstrap_difference, bootstrap_interval, character_errors, count, word_errors
from voxtok.runtime.errors import ManifestError

PLAIN = TextNormalization(case="lower", punctuation="remove")
WORDS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=6)


@settings(max_examples=150, deadline=None)
@given(WORDS, WORDS)
def test_errors_are_the_fewest(ref: list[str], hyp: list[str]) -> None:
    errors = word_errors(" ".join(ref), " ".join(hyp))
    assert errors.total == edits(ref, hyp)
    assert errors.length == len(ref)
    assert len(ref) - errors.deletions + errors.insertions == len(hyp)
    pairs = align(ref, hyp)
    assert [word for word, _ in pairs if word] == ref and [word for _, word in pairs if word] == hyp


def test_kinds_of_errors_worked_by_hand() -> None:
    assert word_errors("the cat sat", "the bat sat down") == Errors(3, insertions=1, substitutions=1)
    assert word_errors("a b c", "a c d") in (Errors(3, 1, 1, 0), Errors(3, 0, 0, 2))
    assert character_errors("a cat", "a  hat") == Errors(5, substitutions=1)
    assert character_errors("a b", "ab") == Errors(3, deletions=1)
    assert count([("a", "a"), ("b", ""), ("", "d")]) == Errors(2, 1, 1, 0)
    assert word_errors("", "x").rate is None and word_errors("x", "").rate == 1.0


def test_the_bootstrap_is_seeded_and_holds_the_rate() -> None:
    errors = [Errors(10, substitutions=place % 4) for place in range(40)]
    names = [f"u{place}" for place in range(40)]
    low, high = bootstrap_interval(errors, names, replications=500, seed=3) or (1.0, 0.0)
    assert bootstrap_interval(errors, names, replications=500, seed=3) == (low, high)
    assert bootstrap_interval(errors, names, replications=500, seed=4) != (low, high)
    assert low < 0.15 < high and high - low == pytest.approx(2 * 1.96 * 0.1118 / 40**0.5, rel=0.15)
    assert bootstrap_interval([Errors()], ["u"], replications=5, seed=0) is None


def test_speakers_drawn_whole_widen_the_interval() -> None:
    errors = [Errors(10, substitutions=5 if place < 20 else 0) for place in range(40)]
    by_utterance = bootstrap_interval(errors, [str(p) for p in range(40)], replications=500, seed=0) or (0, 0)
    by_speaker = bootstrap_interval(errors, [str(p // 10) for p in range(40)], replications=500, seed=0) or (0, 0)
    assert by_speaker[1] - by_speaker[0] > 1.5 * (by_utterance[1] - by_utterance[0])


def test_two_systems_are_compared_on_the_same_draws() -> None:
    """One error less in each utterance is sure to be better, however much utterances differ; equal ones are not."""
    other = [Errors(10, substitutions=1 + place % 7) for place in range(40)]
    ours = [Errors(10, substitutions=place % 7) for place in range(40)]
    names = [str(place) for place in range(40)]
    found = bootstrap_difference(ours, other, names, replications=200, seed=0)
    assert found.rate == pytest.approx(-0.1) and found.better == 1.0
    assert found.interval == pytest.approx((-0.1, -0.1))
    same = bootstrap_difference(ours, ours, names, replications=200, seed=0)
    assert (same.rate, same.interval, same.better) == (0.0, (0.0, 0.0), 0.5)
    mixed = [ours[place] if place % 2 else Errors(10, substitutions=2 + place % 7) for place in range(40)]
    assert 0.5 < (bootstrap_difference(ours, mixed, names, replications=200, seed=0).better or 0) <= 1
    assert bootstrap_difference([Errors()], [Errors()], ["u"], replications=5, seed=0).rate is None


def test_of_one_group_alone_there_is_no_interval() -> None:
    """Speakers that nobody knows are one, which says nothing of others."""
    references = {"u1": Reference("a b"), "u2": Reference("c")}
    better, worse = (score(references, {"u1": text, "u2": "c"}, PLAIN) for text in ("a b", "a"))
    by_speaker = ScoringConfig(resample="speaker")
    assert summary(worse, by_speaker)["wer"]["interval"] is None
    found = compare(worse, better, by_speaker)["wer"]
    assert (found["interval"], found["better"]) == (None, None)
    assert versus_line("wer", found) == "WER: +33.33 points against the other; no interval from one group"


def test_an_alignment_reads_word_under_word() -> None:
    (one,) = score({"u1": Reference("the cat sat", "s1")}, {"u1": "the bat sat down"}, PLAIN)
    lines = ["u1 (s1): 2 errors in 3 words", "ref: the cat sat *", "hyp: the bat sat down", "         S       I"]
    assert alignment(one) == "\n".join(lines) + "\n"


def test_texts_are_normalised_before_they_are_compared() -> None:
    references = {"u": Reference("It's, WELL-known!")}
    assert score(references, {"u": "it's well known"}, PLAIN)[0].words.total == 0
    kept = TextNormalization(case="keep", punctuation="keep")
    assert score(references, {"u": "it's well known"}, kept)[0].words.total == 3


def test_missing_hypotheses_are_deletions_and_strays_an_error() -> None:
    references = {"u1": Reference("a b", "s1"), "u2": Reference("c", "s2")}
    found = summary(score(references, {"u2": "c"}, PLAIN), ScoringConfig())
    assert (found["wer"]["rate"], found["wer"]["deletions"], found["sentence_error_rate"]) == (2 / 3, 2, 0.5)
    assert [(row["speaker"], row["wer"]["rate"]) for row in found["speakers"]] == [("s1", 1.0), ("s2", 0.0)]
    with pytest.raises(ManifestError, match="u3"):
        score(references, {"u3": "x"}, PLAIN)
    with pytest.raises(ManifestError, match="no references"):
        score({}, {}, PLAIN)


def test_the_command_scores_text_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ref").write_text("u1 The cat sat.\nu2 hello\n")
    (tmp_path / "hyp").write_text("u1 the bat sat\n")
    words = ["--ref", f"{tmp_path}/ref", "--hyp", f"{tmp_path}/hyp", "--out", f"{tmp_path}/out"]
    assert main([*words, "--case", "lower", "--punctuation", "remove"]) == 0
    assert "1 without a hypothesis" in capsys.readouterr().out
    found = json.loads((tmp_path / "out/score.json").read_text())
    assert found["wer"]["rate"] == 0.5 and found["missing"] == 1
    assert found["normalization"] == {"case": "lower", "punctuation": "remove"}
    assert (tmp_path / "out/alignments.txt").read_text().count("errors in") == 2
    (tmp_path / "hyp2").write_text("u1 the cat sat\nu2 hello\n")
    more = ["--case", "lower", "--punctuation", "remove", "--versus", f"{tmp_path}/hyp2"]
    assert main([*words, *more]) == 0
    assert "WER: +50.00 points" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/versus.json").read_text())["cer"]["better"] == 0.0
    with pytest.raises(SystemExit):  # what changes the result is asked for
        main(words)


def test_the_command_scores_cuts_by_speaker(tmp_path: Path) -> None:
    cuts = write_toy_corpus(tmp_path, [0.5, 0.5, 0.5])
    rows = [json.dumps({"id": f"utt{place:03d}", "text": "a"}) for place in range(3)]
    (tmp_path / "hyp.jsonl").write_text("\n".join(rows) + "\n")
    words = ["--ref", str(cuts), "--hyp", f"{tmp_path}/hyp.jsonl", "--out", f"{tmp_path}/out"]
    assert main([*words, "--case", "lower", "--punctuation", "remove", "--scoring.resample", "speaker"]) == 0
    found = json.loads((tmp_path / "out/score.json").read_text())
    assert [row["speaker"] for row in found["speakers"]] == ["s0", "s1"]
    assert found["bootstrap"]["resample"] == "speaker" and 0 < found["wer"]["rate"] <= 1
