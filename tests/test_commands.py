"""The command line: a table that loads nothing, one sentence for an error, hyphens as underscores."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from voxtok.runtime.commands import COMMANDS, main
from voxtok.runtime.config import parse
from voxtok.runtime.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Config:
    """An example."""

    layer: int
    """Which layer."""
    batch_s: float = 10.0
    """Batch size."""
    files: tuple[str, ...] = ()
    """Files."""
    strict: bool = False
    """Stop early."""
    sizes: tuple[int, ...] = ()
    """Vocabulary sizes."""

    def __post_init__(self) -> None:
        if self.batch_s <= 0:
            raise ConfigError("batch_s must be positive")


def test_help_needs_no_torch_and_lists_every_command() -> None:
    code = "import sys; from voxtok.runtime.commands import main; main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in COMMANDS)


def test_hyphens_and_underscores_are_the_same() -> None:
    assert parse(Config, ["--layer", "3", "--batch-s=5"], "x").batch_s == 5
    assert parse(Config, ["--layer", "3", "--batch_s", "6"], "x").batch_s == 6


@pytest.mark.parametrize(
    ("words", "strict"),
    [
        ([], False),
        (["--strict"], True),
        (["--strict", "false"], False),
        (["--strict=true"], True),
        (["--strict", "a.wav"], True),
    ],
)
def test_a_switch_needs_no_value(words: list[str], strict: bool) -> None:
    config = parse(Config, ["--layer", "3", *words], "x", positional="files")
    assert config.strict is strict
    assert config.files == tuple(word for word in words if word.endswith(".wav"))


@pytest.mark.parametrize(
    ("words", "sizes"),
    [
        (["--sizes", "50,100"], (50, 100)),
        (["--sizes=50"], (50,)),
        (["--sizes", "[50, 100]", "--strict"], (50, 100)),
        (["--strict", "--sizes", "50"], (50,)),
    ],
)
def test_lists_are_separated_by_commas(words: list[str], sizes: tuple[int, ...]) -> None:
    assert parse(Config, ["--layer", "3", *words], "x").sizes == sizes


def test_positional_words(tmp_path: Path) -> None:
    config = parse(Config, ["--layer", "3", "a b.wav", "c.wav"], "x", positional="files")
    assert config.files == ("a b.wav", "c.wav")
    assert parse(Config, ["--layer", "3"], "x", positional="files").files == ()


def test_a_yaml_file_and_an_override(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("layer: 9\nbatch_s: 2.5\n")
    config = parse(Config, ["--config", str(tmp_path / "c.yaml"), "--layer", "4"], "x")
    assert (config.layer, config.batch_s) == (4, 2.5)


@pytest.mark.parametrize("argv", [["--layr", "3"], ["--layer", "3", "--batch-sec", "1"], [], ["--layer", "x"]])
def test_wrong_options_exit_2_in_one_sentence(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(Config, argv, "voxtok x")
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message and message.startswith("voxtok x: error:")


def test_an_unknown_option_names_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(Config, ["--layer", "3", "--batch-sec", "1"], "x")
    assert "did you mean --batch-s?" in capsys.readouterr().err
    (tmp_path / "c.yaml").write_text("layer: 9\nbach_s: 2.5\n")
    with pytest.raises(SystemExit):
        parse(Config, ["--config", str(tmp_path / "c.yaml")], "x")
    assert "did you mean --batch-s?" in capsys.readouterr().err


def test_help_shows_the_docstrings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(Config, ["--help"], "x")
    shown = capsys.readouterr().out
    assert "Which layer." in shown and "--batch-s" in shown and "--batch_s" not in shown


def test_an_unknown_command_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encod"]) == 2
    assert "encode" in capsys.readouterr().err


def test_a_named_error_is_one_sentence_without_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--store", str(tmp_path), "--to", "text", "--out", "x"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("voxtok export: error:") and "Traceback" not in message
