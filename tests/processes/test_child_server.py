"""The server that forks a process's children: one that does not linger leaves nothing behind when they are gone."""

import asyncio
import os
from pathlib import Path

from actors import Exit
from actors.runtime.loop import real_ports

ENTRY = "test_child_server:write_and_say"
GROUPS_ENTRY = "test_child_server:say_groups"
HERE = str(Path(__file__).parent)
PATIENCE_S = 20


def write_and_say(channel: object, argument: bytes) -> None:
    """The whole life of a child: steps back, writes a file through its port, says so."""
    channel.step_back(1)                                        # type: ignore[attr-defined]
    file = channel.files.open(argument.decode(), create=True)    # type: ignore[attr-defined]
    file.pwrite((b"written",), 0)
    file.close()
    channel.send(b"done")                                       # type: ignore[attr-defined]


def say_groups(channel: object, argument: bytes) -> None:
    """The whole life of a child: says its session and its process group."""
    channel.send(f"{os.getsid(0)} {os.getpgid(0)}".encode())     # type: ignore[attr-defined]


async def children_of_this_process() -> set[str]:
    return set(Path("/proc/thread-self/children").read_text().split())


async def run_child(ports: object, path: Path, entry: str = ENTRY) -> list[object]:
    heard: list[object] = []
    gone: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
    ports.processes.spawn(      # type: ignore[attr-defined]
        entry, str(path).encode(), page_bytes=8, on_frame=heard.append, on_exit=gone.set_result
    )
    heard.append(await asyncio.wait_for(gone, PATIENCE_S))
    return heard


def test_a_server_that_does_not_linger_ends_with_its_last_child_and_the_next_child_gets_another(tmp_path):
    async def main() -> None:
        before = await children_of_this_process()
        ports = real_ports(asyncio.get_running_loop(), path=(HERE,), lingers=False)
        try:
            for number in range(2):
                path = tmp_path / f"file{number}"
                heard = await run_child(ports, path)
                assert (heard[0], heard[1].code) == (b"done", 0)    # type: ignore[attr-defined]
                assert path.read_bytes() == b"written"
                assert await children_of_this_process() == before
        finally:
            ports.network.close()

    asyncio.run(main())


def test_a_server_that_lingers_stays_for_the_next_child(tmp_path):
    async def main() -> None:
        before = await children_of_this_process()
        ports = real_ports(asyncio.get_running_loop(), path=(HERE,))
        try:
            await run_child(ports, tmp_path / "file")
            server = await children_of_this_process() - before
            assert len(server) == 1
            await run_child(ports, tmp_path / "file")
            assert await children_of_this_process() - before == server
        finally:
            ports.processes.close()     # type: ignore[attr-defined]
            ports.network.close()

    asyncio.run(main())


def test_a_child_shares_the_session_for_the_scheduler_and_not_the_group_for_ctrl_c(tmp_path):
    async def main() -> None:
        ports = real_ports(asyncio.get_running_loop(), path=(HERE,))
        try:
            said, _ = await run_child(ports, tmp_path, GROUPS_ENTRY)
        finally:
            ports.processes.close()     # type: ignore[attr-defined]
            ports.network.close()
        session, group = map(int, said.split())     # type: ignore[attr-defined]
        assert session == os.getsid(0)
        assert group != os.getpgid(0)

    asyncio.run(main())
