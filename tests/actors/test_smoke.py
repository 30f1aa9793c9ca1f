import msgspec
from actor_world import run_in_world
from actors import *
from actors import SECOND
class Ping(msgspec.Struct): n: int
class Echo(Actor):
    @handles
    def on_ping(self, m: Ping) -> int: return m.n+1
class AEcho(Actor):
    @handles
    async def on_ping(self, m: Ping) -> int: return m.n+2
def test_x():
    async def main(system):
        r=system.spawn(Echo()); a=system.spawn(AEcho())
        return await r.ask(Ping(1), SECOND), await a.ask(Ping(1), SECOND)
    assert run_in_world(main)==(2,3)
def test_real():
    import uvloop, asyncio
    D=msgspec.msgpack.Decoder(list[Ping])
    async def main(ports):
        done=asyncio.get_running_loop().create_future(); log=[]
        a=Endpoint(ports,b"a"*16); b=Endpoint(ports,b"b"*16)
        def hello(p,h): log.append(("hello",h)); return D
        def got(p,ms): log.append(ms); p.send(Ping(ms[0].n+1))
        l=a.listen("127.0.0.1:0",D,hello,got,lambda p: log.append("closed"))
        def back(p,ms): log.append(ms); done.set_result(1)
        p=b.dial(l.address,lambda: Ping(7),D,lambda p:(p.send(Ping(1)),p.send(Ping(2))),back,lambda p:log.append("down"))
        await asyncio.wait_for(done,5)
        a.close(); b.close(); ports.network.close()
        return log, a.counters, b.counters, ports.network.missed_edges
    print(run(main))
