"""The composition root of a real process: its loop, and the ports over it."""

import asyncio
import atexit
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from actors.runtime.clock import LoopClock
from actors.runtime.ports import Ports
from actors.telemetry.log import LineLog

T = TypeVar("T")

LOG_FORMAT_VARIABLE = "QUORUMQ_LOG"    # "json" for programs; anything else, or nothing: logfmt


class OsEntropy:
    """Chance from the kernel."""

    def below(self, bound: int) -> int:
        assert bound >= 1
        # Rejection keeps it uniform; at least half of the draws are taken.
        count = (bound - 1).bit_length()
        while True:
            number = self.bits(count)
            if number < bound:
                return number

    def bits(self, count: int) -> int:
        size = (count + 7) // 8
        return int.from_bytes(os.urandom(size), "little") >> (size * 8 - count)


def real_ports(
    loop: asyncio.AbstractEventLoop,
    *,
    node: str = "",
    preload: Sequence[str] = (),
    path: Sequence[str] = (),
    echo: bool = False,
    lingers: bool = True,
) -> Ports:
    """The real world for the actors of this process; once per process, and never before a fork.

    Whoever calls this calls `ports.network.close()` in the end, on the loop.

    `node` names this process in its log; `preload` are modules that child processes will have imported, with
    `path` before the usual places to look for them. With `echo` what they print goes to this process's
    stderr. Without `lingers` the process that forks them ends with the last of them.
    """
    # Imported here, so that a process that only wants the names of `actors` does not load ZeroMQ.
    from actors.runtime.files import OsFiles
    from actors.runtime.output import Echo, OutputGate, plain, write_to_stderr
    from actors.runtime.processes import RealProcesses
    from actors.transport.zmtp_link import ZmtpNetwork

    clock = LoopClock(loop)
    json = os.environ.get(LOG_FORMAT_VARIABLE) == "json"
    log = LineLog(clock, sys.stderr.write, json=json, node=node)

    def as_event(child: str, line: str) -> str:
        written: list[str] = []
        LineLog(clock, written.append, json=True, node=node).event("child_output", child=child, line=line)
        return "".join(written)

    gate = OutputGate(clock, as_event if json else plain, write_to_stderr)
    echoes = Echo(loop.call_later, write_to_stderr) if echo else None
    if echoes is not None:
        atexit.register(echoes.flush)
    return Ports(
        clock=clock,
        entropy=OsEntropy(),
        files=OsFiles(loop.call_soon_threadsafe),
        network=ZmtpNetwork(loop, log),
        processes=RealProcesses(loop, preload=preload, path=path, echo=echoes, gate=gate, lingers=lingers),
        log=log,
    )


def run(
    main: Callable[[Ports], Awaitable[T]],
    *,
    node: str = "",
    preload: Sequence[str] = (),
    path: Sequence[str] = (),
    echo: bool = False,
    lingers: bool = True,
) -> T:
    """Runs `main(ports)` on a loop of its own (uvloop) and returns what it returns; options as of
    `real_ports`.

    When `main` has ended, however, the network is closed: what it sent last still leaves, and nothing holds up
    the end of the process for longer than a tenth of a second.
    """
    import uvloop

    async def start() -> T:
        loop = asyncio.get_running_loop()
        ports = real_ports(loop, node=node, preload=preload, path=path, echo=echo, lingers=lingers)
        try:
            return await main(ports)
        finally:
            ports.network.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(start())
