"""A `voxtok` for recipes under test that starts at once: a server has imported all that commands need, and forks.

Importing torch takes seconds, a recipe is dozens of commands, and most of them have little to do on a miniature.
`folder()` holds an executable `voxtok` that hands its arguments, environment, working directory and streams over.
"""

import array
import atexit
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

CLIENT = """#!{python} -IS
import array, json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
streams = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
server.sendmsg([b"-"], streams)
order = dict(argv=sys.argv[1:], cwd=os.getcwd(), environment=dict(os.environ))
server.sendall(json.dumps(order).encode() + b"\\n")
sys.exit(int(server.recv(16) or 1))
"""


@cache
def folder() -> Path:
    """The folder to put first on the PATH; the server ends with this process."""
    place = tempfile.TemporaryDirectory(prefix="voxtok-commands-")
    address = str(Path(place.name) / "socket")
    server = subprocess.Popen(
        [sys.executable, __file__, address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert server.stdout is not None and server.stdin is not None
    assert server.stdout.readline() == b"ready\n"
    client = Path(place.name) / "voxtok"
    client.write_text(CLIENT.format(python=sys.executable, address=address))
    client.chmod(0o755)
    for close in (place.cleanup, server.wait, server.stdout.close, server.stdin.close):  # the last one comes first
        atexit.register(close)
    return client.parent


def serve(address: str) -> None:
    """Fork for each command until the process that began this one is gone."""
    from voxtok.runtime.commands import COMMANDS

    for module, _ in COMMANDS.values():
        importlib.import_module(module)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    if os.fork() == 0:
        sys.stdin.read()  # ends when the other process does
        os.kill(os.getppid(), signal.SIGTERM)
        os._exit(0)
    print("ready", flush=True)
    while True:
        connection, _ = listening.accept()
        if os.fork() == 0:
            os._exit(command(connection))
        connection.close()


def command(connection: socket.socket) -> int:
    """Run one command in this process, and say how it ended."""
    from voxtok.runtime.commands import main

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, sent, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(3 * array.array("i").itemsize))
    streams = array.array("i", sent[0][2])
    order = json.loads(connection.makefile().readline())
    for stream, place in zip(streams, (0, 1, 2), strict=True):
        os.dup2(stream, place)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["cwd"])
    status = 1
    try:
        status = main(order["argv"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(str(status).encode())
    return status


if __name__ == "__main__":
    serve(sys.argv[1])
