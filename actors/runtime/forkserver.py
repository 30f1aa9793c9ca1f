"""The fork server: a small process that imports modules once and forks children that have them loaded.

Why not fork the parent: it has threads, sockets and a running loop, none of which survive a fork in a usable
state. Why not start each child afresh: 30 to 70 ms and 20 MB each, against 3 ms and shared memory. Why not
multiprocessing's server: it re-imports the parent's `__main__` in every child, swallows import errors, runs a
resource tracker as one more process, and reports exits over a pipe that grandchildren may hold open.

Protocol, over a SEQPACKET socket, one message each way per event:
  parent -> server   Fork(id, entry, argument) with three descriptors: connection, output, page; and the
  lock's name server -> parent   Forked(id, pid) with one descriptor, the child's pidfd server -> parent
  Exited(id, status) when the child has ended
The server ends when the parent closes the socket, and by the kernel when the parent dies; its children die
with it.
"""

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
import traceback

import msgspec
from msgspec import Struct

from actors.runtime.child import Channel, SharedLock, SharedPage, die_with_parent, run

MESSAGE_BYTES_MAX = 128 * 1024


class Fork(Struct, array_like=True, tag=0, frozen=True):
    """Parent -> server. Owes: Forked, later Exited."""

    id: int
    entry: str
    argument: bytes
    page_bytes: int
    lock_name: str


class Forked(Struct, array_like=True, tag=1, frozen=True):
    """Server -> parent: the child runs."""

    id: int
    pid: int


class Exited(Struct, array_like=True, tag=2, frozen=True):
    """Server -> parent: the child ended; `status` as of waitpid."""

    id: int
    status: int


request_decoder = msgspec.msgpack.Decoder(Fork)
report_decoder: msgspec.msgpack.Decoder[Forked | Exited] = msgspec.msgpack.Decoder(Forked | Exited)


def main(control_fd: int, parent: int, preload: list[str]) -> None:
    """The whole life of the server; `control_fd` is its end of the socket."""
    die_with_parent(parent)
    # Ctrl-C in a terminal is for the parent alone. A session of its own would do that, too, but Linux schedules
    # sessions as groups of equal weight: a child that steps back would still get as much as all others together.
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTTIN, signal.SIG_IGN)       # the terminal stops nobody: what reads from it gets an error
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    for module in preload:
        # A broken module is reported by the child, which imports it again and can say so.
        with contextlib.suppress(BaseException):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()                             # the collector must not touch, and so copy, what children share
    control = socket.socket(fileno=control_fd)
    with contextlib.suppress(ConnectionError):
        _serve(control)


def _serve(control: socket.socket) -> None:
    children: dict[int, tuple[int, int]] = {}           # pidfd -> (id, pid)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd != control.fileno():
                poll.unregister(fd)
                os.close(fd)
                child, pid = children.pop(fd)
                _, status = os.waitpid(pid, 0)
                control.send(msgspec.msgpack.encode(Exited(child, status)))
                continue
            data, fds, _, _ = socket.recv_fds(control, MESSAGE_BYTES_MAX, 3)
            if not data:
                return
            request = request_decoder.decode(data)
            pid = _fork(request, fds, [control.fileno(), *children])
            for received in fds:
                os.close(received)
            # Taken before the child is waited for, so this cannot be another process of the same number.
            pidfd = os.pidfd_open(pid)
            children[pidfd] = (request.id, pid)
            poll.register(pidfd, select.POLLIN)
            socket.send_fds(control, [msgspec.msgpack.encode(Forked(request.id, pid))], [pidfd])


def _fork(request: Fork, fds: list[int], others: list[int]) -> int:
    # Opened here, so that the parent may remove the name as soon as it hears of the fork.
    lock = SharedLock.open(request.lock_name)
    server = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        die_with_parent(server)
        for fd in others:
            os.close(fd)
        connection_fd, output_fd, page_fd = fds
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(output_fd, 1)
        os.dup2(output_fd, 2)
        page = SharedPage(page_fd, request.page_bytes, lock)
        os.close(output_fd)
        os.close(page_fd)
        # By line, so that what it printed last is there when it is killed.
        sys.stdout = open(  # noqa: SIM115 - for the life of the process
            1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
        )
        sys.stderr = open(  # noqa: SIM115
            2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
        )
        code = run(request.entry, request.argument, Channel(socket.socket(fileno=connection_fd), page))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
