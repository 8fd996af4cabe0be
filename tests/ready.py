"""Python programs in processes of their own that have the libraries loaded already.

A program that loads torch and Lightning takes six seconds before it does anything. Here one process of the
test session loads what is not ours, once, and forks for each program, which is like any other from there on:
it has arguments, environment, folder, signals and an exit code of its own. Our own code is imported anew from
its ``PYTHONPATH``. A test of what is imported, or of a worker that Python itself starts, starts it for real.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

LIBRARIES = ("torch._dynamo", "torchvision", "pytorch_lightning", "timm", "safetensors.torch", "pandas")
HYDRA = ("hydra.main", "hydra._internal.utils", "hydra._internal.hydra", "jinja2", "PIL.Image", "tqdm")
OURS = ("midre_exp", "attacks", "defenses", "hydra_plugins", "tests")


class Process:
    """A program that runs, as of ``subprocess.Popen``: its output is one stream of text."""

    def __init__(self, pid: int, status: socket.socket, stdout: IO[str]):
        self.pid = pid
        self.stdout = stdout
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        return self._returned(0)

    def wait(self, timeout: float | None = None) -> int:
        if (code := self._returned(timeout)) is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """The rest of its output, once the stream has ended."""
        until = None if timeout is None else time.monotonic() + timeout
        output = _read_all(self.stdout, until, self.pid)
        self.wait(None if until is None else max(0.1, until - time.monotonic()))
        return output, None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        self.stdout.close()

    def _returned(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            self._status.settimeout(timeout)
            with contextlib.suppress(TimeoutError, BlockingIOError):
                self.returncode = _number(self._status)
        return self.returncode


def _read_all(stream: IO[str], until: float | None, pid: int) -> str:
    """What comes until the stream ends. TimeoutExpired where it does not end in time."""
    parts: list[str] = []
    reader = threading.Thread(target=lambda: parts.append(stream.read()), daemon=True)
    reader.start()
    reader.join(None if until is None else max(0.0, until - time.monotonic()))
    if reader.is_alive():
        raise subprocess.TimeoutExpired(str(pid), 0)
    return "".join(parts)


def start(words: Sequence[str], *, cwd: Path, env: Mapping[str, str], errors: int | None = None) -> Process:
    """``python *words`` of ``-m MODULE`` or ``-c CODE`` and its arguments; what it says on its error stream
    goes to the file descriptor ``errors``, or among its output.
    """
    read, write = os.pipe()
    own, theirs = socket.socketpair()
    request = json.dumps({"words": [*words], "cwd": str(cwd), "env": dict(env)}).encode()
    with theirs:
        descriptors = [write, write if errors is None else errors, theirs.fileno()]
        _send(_server(), request, descriptors)
        os.close(write)
    return Process(_number(own), own, open(read, encoding="utf-8"))  # noqa: PTH123


def run(words: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The same, when it has ended: exit code, output and errors."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        with start(words, cwd=cwd, env=env, errors=errors.fileno()) as process:
            output = process.stdout.read()
        errors.seek(0)
        return subprocess.CompletedProcess([*words], process.wait(), output, errors.read())


_servers: dict[int, socket.socket] = {}


def _server() -> socket.socket:
    """The connection to the process that has the libraries; of each test session its own."""
    if os.getpid() not in _servers:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with theirs:
            process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                cwd="/",
                env={**environment, "OMP_NUM_THREADS": "1"},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        _servers[os.getpid()] = ours
        atexit.register(lambda: (ours.close(), process.wait(10)))
    return _servers[os.getpid()]


def _send(server: socket.socket, request: bytes, descriptors: Sequence[int]) -> None:
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
    server.sendmsg([len(request).to_bytes(4, "big")], [rights])
    server.sendall(request)


def _number(status: socket.socket) -> int:
    """What the other side tells by ``_tell``; as of SIGKILL where it cannot any more."""
    return int.from_bytes(status.recv(8, socket.MSG_WAITALL) or b"\xf7" + b"\xff" * 7, "little", signed=True)


def _tell(status: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more
        status.sendall(number.to_bytes(8, "little", signed=True))


# the other side


def serve(connection: socket.socket) -> list[str]:
    """Fork for each request. Returns, in the process of the program, its words."""
    for name in (*LIBRARIES, *HYDRA):
        __import__(name)
    assert not any(name.partition(".")[0] in OURS for name in sys.modules)
    gc.collect(), gc.freeze()
    path = sys.path[1:]  # without the folder of this file
    signal.signal(signal.SIGCHLD, _forget)  # waited for, so that their time is counted
    while head := connection.recvmsg(4, socket.CMSG_SPACE(3 * array.array("i").itemsize)):
        size, ancillary, *_ = head
        if not size:
            raise SystemExit
        places = array.array("i")
        places.frombytes(ancillary[0][2])
        request = json.loads(_receive(connection, int.from_bytes(size, "big")))
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            connection.close()
            return _become(request, [*places], path)
        for place in places:
            os.close(place)
    raise SystemExit


def _forget(*_: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _receive(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        found += connection.recv(size - len(found))
    return found


def _become(request: dict[str, object], places: list[int], path: list[str]) -> list[str]:
    """In the one that waits for the program, to tell how it ended; returns in the program."""
    output, errors, told = places
    if (pid := os.fork()) != 0:
        os.close(output), os.close(errors)
        status = socket.socket(fileno=told)
        _tell(status, pid)
        _, ended = os.waitpid(pid, 0)
        _tell(status, os.waitstatus_to_exitcode(ended))
        os._exit(0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    atexit.register(gc.unfreeze)  # or libraries tell, as it ends, what they believe to have leaked
    os.dup2(output, 1), os.dup2(errors, 2)
    for place in places:
        os.close(place)
    environment, words = request["env"], request["words"]
    assert isinstance(environment, dict) and isinstance(words, list)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(str(request["cwd"]))
    first = str(Path.cwd()) if words[0] == "-m" else ""
    more = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place]
    sys.path[:] = [first, *more, *path]
    return words


if __name__ == "__main__":
    kind, what, *sys.argv[1:] = serve(socket.socket(fileno=int(sys.argv[1])))
    for name in [name for name in globals() if not name.startswith("__")]:
        if name not in ("kind", "what", "runpy", "sys"):
            del globals()[name]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.argv[0] = "-c"
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
