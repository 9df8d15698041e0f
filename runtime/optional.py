"""Optional packages: imported at the point of use, with the pip command in the error."""

import importlib
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
