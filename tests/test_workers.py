"""Worker processes: order, a dead worker, a killed parent."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from voxtok.runtime.errors import VoxtokError
from voxtok.runtime.workers import cores, in_workers


def test_results_come_in_the_order_of_the_tasks() -> None:
    assert list(in_workers(math.sqrt, [16.0, 9.0, 4.0, 1.0], 2)) == [4, 3, 2, 1]
    assert list(in_workers(math.sqrt, [], 2)) == []
    assert cores() >= 1


def test_what_the_function_raises_is_raised() -> None:
    with pytest.raises(ValueError, match="math domain error"):
        list(in_workers(math.sqrt, [-1.0], 1))


def test_a_worker_that_dies_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VoxtokError, match="worker process died"):
        list(in_workers(os._exit, [3, 3, 3], 1))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc to find the processes in")
def test_workers_of_a_killed_parent_end_too(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import time\nfrom voxtok.runtime.workers import in_workers\n"
        "if __name__ == '__main__':\n    list(in_workers(time.sleep, [0, 600], 1))\n"
    )
    parent = subprocess.Popen([sys.executable, script])
    children: list[str] = []
    while len(children) < 2:  # the worker, and the process that tracks its semaphores
        assert parent.poll() is None
        time.sleep(0.05)
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    time.sleep(3)
    parent.kill()
    parent.wait()
    for _ in range(600):
        if not any(Path(f"/proc/{child}").exists() for child in children):
            return
        time.sleep(0.05)
    pytest.fail(f"still there 30 s later: {children}")
