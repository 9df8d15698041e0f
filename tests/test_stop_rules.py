"""Rules that stop utterances which loop, are stuck, or do not end."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference_lm
from voxtok.runtime.errors import ConfigError
from voxtok.tts.stop_rules import Ended, StopRules, Watch

RATE_HZ = 50.0


def watched(tokens: list[int], rules: StopRules, frames: float = 1.0) -> tuple[Ended | None, int, int]:
    """Why it stopped, rows kept, rows seen."""
    watch = Watch(rules, RATE_HZ)
    for seen, token in enumerate(tokens, start=1):
        ended = watch.add(token, frames)
        if ended is not None:
            return ended, watch.kept_rows, seen
    return None, watch.kept_rows, len(tokens)


def test_a_phrase_said_three_times_is_a_loop_cut_to_its_first_round() -> None:
    start, phrase = list(range(100, 120)), [1, 1, 2, 3, 3, 3, 4, 5, 6, 7] * 3
    rules = StopRules(max_s=60, loop_rounds=3, loop_s=1.0)
    ended, kept, seen = watched(start + phrase * 4, rules)
    assert ended == "loop"
    assert kept <= 20 + len(phrase) // 3 + 1  # the phrase is itself a loop of ten frames
    assert seen <= 20 + 70


def test_durations_do_not_hide_a_loop() -> None:
    rounds = [[1, 2, 3, 4, 5], [1, 1, 1, 2, 2, 3, 4, 5, 5], [1, 2, 2, 2, 3, 3, 4, 4, 5], [1, 2, 3]]
    ended, kept, _ = watched(sum(rounds, [9]), StopRules(max_s=60, loop_rounds=3, loop_s=0.1))
    assert (ended, kept) == ("loop", 1 + len(rounds[0]))


def test_short_repetitions_are_speech() -> None:
    laughter = [1, 2, 3] * 8 + list(range(10, 40))
    assert watched(laughter, StopRules(max_s=60, loop_s=1.0))[0] is None
    assert watched(laughter, StopRules(max_s=60, loop_s=0.2))[0] == "loop"


@given(tokens=st.lists(st.integers(0, 2), min_size=1, max_size=40), rounds=st.integers(2, 4))
@settings(max_examples=150, deadline=None)
def test_loops_are_those_that_loops_over_everything_find(tokens: list[int], rounds: int) -> None:
    runs = [token for i, token in enumerate(tokens) if i == 0 or token != tokens[i - 1]]
    expected = next(
        ((end, kept) for end in range(1, len(runs) + 1) if (kept := reference_lm.loop_end(runs[:end], rounds))), None
    )
    rules = StopRules(max_s=60, loop_rounds=rounds, loop_s=0.0, stuck_tokens=0)
    ended, kept, seen = watched(runs, rules)
    assert (ended == "loop") == (expected is not None)
    if expected:
        assert (seen, kept) == expected


def test_silence_and_a_held_sound_are_stuck_and_cut_to_a_pause() -> None:
    rules = StopRules(max_s=60, stuck_tokens=4, stuck_s=2.0)
    speech = [i % 37 for i in range(200)]
    for silence in ([50] * 200, [50, 51, 52, 51, 50, 50, 52, 50, 51, 51, 52] * 20):
        ended, kept, seen = watched(speech + silence, StopRules(max_s=60, loop_s=50.0))
        assert ended == "stuck"
        assert 200 + 97 <= seen <= 200 + 100  # 3 different tokens are too few, and the first may be of the speech
        assert seen - kept == 75
    assert watched([50] * 4, rules, frames=30.0)[0] == "stuck"  # one row may be long
    assert watched(speech, StopRules(max_s=60, loop_s=50.0))[0] is None
    assert watched([50] * 300, StopRules(max_s=60, stuck_tokens=0))[0] is None


def test_the_longest_utterance() -> None:
    assert watched([i % 37 for i in range(500)], StopRules(max_s=0.5, loop_s=9)) == ("length", 25, 25)
    watch = Watch(StopRules(max_s=9, min_s=0.1), RATE_HZ)
    watch.add(1, 4)
    assert not watch.may_end
    watch.add(2, 1)
    assert watch.may_end


def test_impossible_rules_are_named() -> None:
    with pytest.raises(ConfigError, match="max-s must be positive"):
        StopRules(max_s=1, min_s=1)
    with pytest.raises(ConfigError, match="loop-rounds"):
        StopRules(max_s=1, loop_rounds=1)
    with pytest.raises(ConfigError, match="stuck-s"):
        StopRules(max_s=1, stuck_s=0)
