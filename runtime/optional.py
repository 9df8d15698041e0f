"""Optional packages: imported at the point of use, with the pip command in the error."""

import importlib
import os
import sys
from typing import Any

from voxtok.runtime.errors import MissingPart


def require(module: str, extra: str) -> Any:
    """Import `module`, which comes with `pip install voxtok[extra]`.

    A broken install counts as a missing one: torchaudio beside a CPU-only torch raises OSError, not ImportError.

    Raises:
        MissingPart: the module is absent or does not load.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise MissingPart(f"this needs {module} ({error}): pip install 'voxtok[{extra}]'") from error


def require_speechbrain(module: str) -> Any:
    """Import one of SpeechBrain's modules without what it does to the rest of the process.

    By itself it switches TF32 on and JIT profiling off, and leaves modules behind that import others, or fail, as soon
    as anyone looks for their files, as debuggers and test tools do with all modules there are.

    Raises:
        MissingPart: SpeechBrain is not installed.
    """
    os.environ.setdefault("SB_DISABLE_QUIRKS", "allow_tf32,disable_jit_profiling")
    found = require(module, "speechbrain")
    lazy = importlib.import_module("speechbrain.utils.importutils").LazyModule
    for loaded in list(sys.modules.values()):
        if isinstance(loaded, lazy):
            vars(loaded).setdefault("__file__", None)
    return found
