"""etcd in two ways: a queue of keys made by hand, and its own lock service. Both speak gRPC with the node that leads.

Keys hang on a lease that a contender gets once and keeps alive. The modules with `pb2` in their names are made of
bench/locks/protocols by bench/peers/setup.sh.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import etcd_rpc_pb2 as etcd
import grpc
import v3lock_pb2 as v3lock
from etcd_rpc_pb2_grpc import KVStub, LeaseStub, WatchStub
from v3lock_pb2_grpc import LockStub

from bench.locks.apps import HOLD_S

OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),      # or all contenders of a process share one connection
    ("grpc.enable_http_proxy", 0),              # loopback needs none
]
KEPT_ALIVE_EACH_S = HOLD_S / 3                  # as etcd's own client does


class Session:
    """A connection, and a lease that lives as long as it does."""

    def __init__(self) -> None:
        self.channel = grpc.aio.insecure_channel(os.environ["LOCKS_ETCD"], options=OPTIONS)
        self.lease = 0
        self._keeping: asyncio.Task[None] | None = None

    async def open(self) -> None:
        stub = LeaseStub(self.channel)
        self.lease = (await stub.LeaseGrant(etcd.LeaseGrantRequest(TTL=HOLD_S))).ID
        self._keeping = asyncio.create_task(self._keep_alive(stub.LeaseKeepAlive()))

    async def close(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
        await self.channel.close()

    async def _keep_alive(self, stream: Any) -> None:
        """If the lease is gone all the same, the next request that names it fails."""
        while True:
            await asyncio.sleep(KEPT_ALIVE_EACH_S)
            await stream.write(etcd.LeaseKeepAliveRequest(ID=self.lease))
            await stream.read()


class Queue:
    """By hand: one transaction puts a key of one's own if there is none of that name, and tells whose are there before.
    The lock is held when all those are deleted; deleting one's own releases it.

    What is deleted is heard from one watch that stands all the time. A watch opened for each wait, from the revision of
    the transaction on as etcd's own client does it, is behind as soon as others have written, and those that are behind
    are served each 100 ms. A single key that all try to put has no order, and what seven of eight write into the log is
    that they did not get it. Both are slower.
    """

    def __init__(self) -> None:
        self._session = Session()
        self._store = KVStub(self._session.channel)
        self._gone: dict[bytes, int] = {}           # keys deleted since this contender asked, and when (revision)
        self._changed = asyncio.Event()

    async def open(self, name: str) -> None:
        await self._session.open()
        self._first, self._end = f"{name}/".encode(), f"{name}0".encode()      # "0" is what follows "/"
        self._key = self._first + b"%x" % self._session.lease
        stream = WatchStub(self._session.channel).Watch()
        create = etcd.WatchCreateRequest(key=self._first, range_end=self._end, filters=[etcd.WatchCreateRequest.NOPUT])
        await stream.write(etcd.WatchRequest(create_request=create))
        self._watching = asyncio.create_task(self._watch(stream))
        await self._heard()

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[int]:
        self._gone.clear()
        absent = etcd.Compare(target=etcd.Compare.CREATE, key=self._key, create_revision=0)
        put = etcd.PutRequest(key=self._key, lease=self._session.lease)
        see = etcd.RangeRequest(key=self._first, range_end=self._end, keys_only=True)
        answer = await self._store.Txn(etcd.TxnRequest(
            compare=[absent], success=[etcd.RequestOp(request_put=put), etcd.RequestOp(request_range=see)]
        ))
        if not answer.succeeded:
            raise ConnectionError("somebody else has the key of this lease")
        asked: int = answer.header.revision
        before = {one.key for one in answer.responses[1].response_range.kvs if one.create_revision < asked}
        while before := {key for key in before if self._gone.get(key, 0) < asked}:
            await self._heard()
        try:
            yield asked
        finally:
            await self._store.DeleteRange(etcd.DeleteRangeRequest(key=self._key))

    async def close(self) -> None:
        self._watching.cancel()
        await self._session.close()

    async def _heard(self) -> None:
        """Returns when the watch has had an answer, the first of which is that it stands."""
        self._changed.clear()
        await self._changed.wait()
        if self._watching.done():
            self._watching.result()

    async def _watch(self, stream: Any) -> None:
        """Until it is cancelled. What goes wrong is raised, and whoever waits looks."""
        try:
            while (answer := await stream.read()) is not grpc.aio.EOF and not answer.canceled:
                for event in answer.events:
                    self._gone[event.kv.key] = event.kv.mod_revision
                self._changed.set()
            raise ConnectionError("etcd has ended the watch")
        finally:
            self._changed.set()


class Service:
    """`v3lockpb.Lock`: the server puts such a key, waits, and answers. It tells no number."""

    def __init__(self) -> None:
        self._session = Session()
        self._stub = LockStub(self._session.channel)

    async def open(self, name: str) -> None:
        self._name = name.encode()
        await self._session.open()

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[None]:
        answer = await self._stub.Lock(v3lock.LockRequest(name=self._name, lease=self._session.lease))
        try:
            yield None
        finally:
            await self._stub.Unlock(v3lock.UnlockRequest(key=answer.key))

    async def close(self) -> None:
        await self._session.close()
