"""What each number of the quality report is: where it stands, how it is written, what it says, which way is better."""

from dataclasses import dataclass
from typing import Any, Literal

Report = dict[str, Any]
Better = Literal["higher", "lower", ""]

HSU = "Hsu et al. 2021 (HuBERT)"
ABX = "Schatz 2016; Nguyen et al. 2020 (ZeroSpeech 2021)"
GAT = "Gat et al. 2022"
CHANG = "Chang et al. 2024 (discrete speech challenge)"


@dataclass(frozen=True)
class Metric:
    """One number of the report: where it is in the JSON, how it is written, and what it says."""

    path: str
    title: str
    form: str
    better: Better
    says: str
    source: str = ""
    chance: str = ""


PURITY = (
    Metric(
        "purity.pnmi",
        "PNMI",
        "{:.3f}",
        "higher",
        "Share of the uncertainty about a frame's phone that its token takes away; 1 where the token gives the phone.",
        HSU,
        "purity.chance_pnmi",
    ),
    Metric(
        "purity.phone_purity",
        "Phone purity",
        "{:.3f}",
        "higher",
        "Share of frames whose phone is guessed right from the token alone.",
        HSU,
        "purity.chance_phone_purity",
    ),
    Metric(
        "purity.cluster_purity",
        "Cluster purity",
        "{:.3f}",
        "higher",
        "Share of frames whose token is guessed right from the phone alone; falls as the vocabulary grows.",
        HSU,
        "purity.chance_cluster_purity",
    ),
)
USAGE = (
    Metric("usage.usage", "Code usage", "{:.1%}", "higher", "Share of the vocabulary that occurs at all."),
    Metric(
        "usage.perplexity",
        "Perplexity",
        "{:.1f}",
        "higher",
        "As if so many tokens were used equally often; the vocabulary size at most.",
    ),
    Metric(
        "usage.entropy_bits", "Entropy", "{:.2f} bit", "higher", "Information of one frame's token; log2 K at most."
    ),
    Metric(
        "usage.bitrate_bps",
        "Bitrate, every frame",
        "{:.0f} bit/s",
        "lower",
        "Frames per second times the entropy; lower is better at equal quality.",
    ),
    Metric(
        "usage.bitrate_dedup_bps",
        "Bitrate after dedup",
        "{:.0f} bit/s",
        "lower",
        "The same after runs of equal tokens are merged, their durations left out.",
    ),
    Metric(
        "usage.bitrate_dedup_log2k_bps",
        "Bitrate after dedup, log2 K",
        "{:.0f} bit/s",
        "lower",
        "Tokens per second times log2 of the vocabulary size: what plain binary codes take.",
        CHANG,
    ),
    Metric(
        "usage.tokens_per_s",
        "Tokens per second",
        "{:.1f}",
        "lower",
        "After dedup: how long the sequences are that a language model reads.",
    ),
    Metric(
        "usage.segment_ms",
        "Segment length",
        "{:.0f} ms",
        "",
        "Mean length of a run of equal tokens; phones last about 80 ms.",
    ),
)
LEAKAGE = (
    Metric(
        "leakage.accuracy",
        "Speaker leakage",
        "{:.1%}",
        "lower",
        "How often a linear probe names the speaker of a held-out utterance from its token counts; lower is better "
        "where tokens should carry content only.",
        "Adi et al. 2019",
        "leakage.chance",
    ),
)
ABX_SAYS = {
    "within": "How often a phone is nearer to another phone than to itself, all by one speaker.",
    "across": "The same where X is by another speaker than A and B.",
}
FRAMES_SAY = {
    "tokens": "Compares token numbers only.",
    "centroids": "Compares the vectors that the tokens stand for.",
    "features": "Compares what was quantized: the tokens' loss is the difference.",
}
DISTANCES = {"edit": "edit distance", "identical": "DTW 0 or 1", "angular": "DTW angle"}
UED_SAYS = {
    "noise": "Tokens edited by pink noise at 5 to 15 dB, per frame.",
    "reverberation": "Tokens edited by a room of 0.2 to 0.8 s reverberation time, per frame.",
    "pitch_shift": "Tokens edited by a pitch up to 4 semitones higher or lower, per frame.",
    "time_stretch": "Tokens edited by a tempo of 0.8 to 1.2 at the same pitch, per frame.",
}


def value_of(report: Report, path: str) -> float | None:
    """The number at a dotted path, None where something on the way is missing."""
    found: Any = report
    for name in path.split("."):
        found = None if found is None else found.get(name)
    return None if found is None else float(found)


@dataclass(frozen=True)
class Row:
    """One line of a table of metrics: a number, its chance level, better direction and sentence."""

    title: str
    value: str
    better: Better
    says: str
    source: str = ""
    chance: str = ""


def row_of(report: Report, metric: Metric) -> Row:
    """A metric's line."""
    chance = written(metric.form, value_of(report, metric.chance)) if metric.chance else ""
    value = written(metric.form, value_of(report, metric.path))
    return Row(metric.title, value, metric.better, metric.says, metric.source, chance)


def written(form: str, value: float | None) -> str:
    """The number as text; a dash where there is none."""
    return "-" if value is None else form.format(value)
