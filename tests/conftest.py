"""One thread a test (contended OpenMP threads are ten times slower), no hub look-ups, and the real speech's folder."""

import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def voxtok_data() -> Path:
    """Folder of real, phone-aligned speech; tests that need it are skipped where VOXTOK_DATA is unset."""
    folder = os.environ.get("VOXTOK_DATA")
    if not folder:
        pytest.skip("VOXTOK_DATA is not set: no real speech to test on")
    return Path(folder)
