"""Checkpoints by folder and by hub id, and the hash of their weights."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.tiny_models import save_tiny, tiny_model
from voxtok.runtime.errors import ConfigError, CorruptFile
from voxtok.tokenize.checkpoint import open_checkpoint
from voxtok.tokenize.weights import hash_weights, read_weights


def test_the_hash_worked_by_hand() -> None:
    """Tensors sorted by name, each its name, dtype, shape and little-endian bytes: 1.0 is 00 00 80 3f."""
    weights = {"b": torch.tensor([[1.0]]), "a": torch.tensor([258], dtype=torch.int16)}
    by_hand = b"a int16 [1]\n\x02\x01" + b"b float32 [1, 1]\n\x00\x00\x80\x3f"
    assert hash_weights(weights) == hashlib.sha256(by_hand).hexdigest()


def test_the_hash_tells_dtypes_shapes_names_and_values_apart() -> None:
    """A bfloat16 copy, a transposed view, another name or another value is another model."""
    tensor = torch.arange(6.0).view(2, 3)
    variants = [
        {"a": tensor},
        {"a": tensor.bfloat16()},
        {"a": tensor.view(3, 2)},
        {"a": tensor.T},
        {"b": tensor},
        {"a": tensor + 1},
    ]
    assert len({hash_weights(weights) for weights in variants}) == len(variants)
    assert hash_weights({"a": tensor.T.contiguous().T}) == hash_weights({"a": tensor})


def test_shards_and_formats_give_the_same_weights(tmp_path: Path) -> None:
    """One safetensors file, several with an index, and a PyTorch file."""
    folder = save_tiny("hubert-base", tmp_path / "one")
    tiny_model("hubert-base").save_pretrained(tmp_path / "many", max_shard_size="20KB")
    assert len(open_checkpoint(str(tmp_path / "many")).weight_files()) > 1
    weights = open_checkpoint(str(folder)).weights()
    torch.save(weights, tmp_path / "weights.bin")
    expected = hash_weights(weights)
    assert hash_weights(open_checkpoint(str(tmp_path / "many")).weights()) == expected
    assert hash_weights(read_weights(tmp_path / "weights.bin")) == expected


def test_what_is_wrong_with_a_folder_is_named(tmp_path: Path) -> None:
    """No configuration, no weights, damaged weights, damaged JSON."""
    with pytest.raises(ConfigError, match=r"no config\.json"):
        open_checkpoint(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "hubert"}')
    checkpoint = open_checkpoint(str(tmp_path))
    assert checkpoint.model_type == "hubert"
    assert checkpoint.preprocessor() == {}
    with pytest.raises(ConfigError, match=r"no model\.safetensors and no pytorch_model\.bin"):
        checkpoint.weights()
    (tmp_path / "pytorch_model.bin").write_bytes(b"nothing")
    with pytest.raises(CorruptFile, match=r"pytorch_model\.bin"):
        checkpoint.weights()
    save_file({"a": torch.zeros(4)}, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:-8])
    with pytest.raises(CorruptFile, match=r"model\.safetensors"):
        checkpoint.weights()
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(CorruptFile, match="not JSON"):
        checkpoint.preprocessor()


def test_files_of_old_pytorch_were_called_corrupt(tmp_path: Path) -> None:
    """torch.save's format before 1.6 is not a zip archive and cannot be memory-mapped."""
    weights = {"a": torch.arange(6.0).view(2, 3)}
    torch.save(weights, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert torch.equal(read_weights(tmp_path / "old.bin")["a"], weights["a"])


@pytest.mark.parametrize("name", ["nobody/nothing", "nobody/nothing@v1", "not a name!", "a/b/c"])
def test_an_unknown_name_says_where_was_looked(name: str) -> None:
    """Offline: a folder, then the hub's cache."""
    with pytest.raises(ConfigError, match=r"not a folder here, and not found .* local cache \(HF_HUB_OFFLINE is set\)"):
        open_checkpoint(name)


def test_a_hub_id_and_revision_come_from_the_local_cache(tmp_path: Path) -> None:
    """A cache as the hub's client lays it out; in a process of its own, since the client reads its folder once."""
    repo = tmp_path / "models--lab--tiny"
    for revision, commit, seed in (("main", "0" * 40, 0), ("v2", "1" * 40, 2)):
        save_tiny("hubert-base", repo / "snapshots" / commit, seed=seed)
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / revision).write_text(commit)
    code = (
        "from voxtok.tokenize.checkpoint import open_checkpoint\n"
        "for name in ('lab/tiny', 'lab/tiny@v2'):\n"
        "    print(open_checkpoint(name).folder.name)\n"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["0" * 40, "1" * 40]
