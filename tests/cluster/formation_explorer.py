"""Brokers that form a cluster, step by step in any order, with crashes and lost disks.

A world holds the real `Formation` of each broker, what their disks hold, and what is on its way between them. It knows
which steps are possible next; a test chooses. Links keep their order, lose what is under way when they end, and what a
dead broker sent last may still arrive. A vote for another is a *promise*, and so is the vote of the candidate that got
it: whoever gave one and lost its disk must not count again before it has caught up. (A candidate that nobody voted
for may forget it.)
"""

from dataclasses import dataclass, field, replace

from cluster.peer.formation import (
    FORMED,
    Action,
    Announce,
    Begin,
    Foreign,
    Formation,
    Quarantine,
    SendForm,
    Store,
)

NAMES = ("b1", "b2", "b3")
FIRST = NAMES[0]

Step = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Disk:
    """What survives a crash. `has_log`: a term was entered."""

    cluster_id: bytes | None = None
    quarantined: bool = False
    has_log: bool = False


@dataclass(slots=True)
class Life:
    """A broker that runs."""

    formation: Formation
    storing: tuple[bytes, bool] | None = None
    begun: bool = False


@dataclass(slots=True)
class FormationWorld:
    """All brokers, and everything that must hold of them. `crashes` and `wipes` are what is left of both."""

    crashes: int
    wipes: int
    lives: dict[str, Life] = field(default_factory=dict)
    disks: dict[str, Disk] = field(default_factory=lambda: dict.fromkeys(NAMES, Disk()))
    links: dict[tuple[str, str], tuple[tuple[object, ...], ...]] = field(default_factory=dict)
    incarnations: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 0))
    stored: dict[str, frozenset[bytes]] = field(default_factory=lambda: dict.fromkeys(NAMES, frozenset()))
    begun_ids: frozenset[bytes] = frozenset()
    promised: frozenset[str] = frozenset()      # on the disk that they have
    broke: frozenset[str] = frozenset()         # promised, and lost the disk
    foreign: frozenset[str] = frozenset()       # stopped for an operator
    wiped: bool = False

    def copy(self) -> "FormationWorld":
        lives = {
            name: replace(life, formation=replace(life.formation, _news=dict(life.formation._news)))
            for name, life in self.lives.items()
        }
        return replace(
            self,
            lives=lives,
            disks=dict(self.disks),
            links=dict(self.links),
            incarnations=dict(self.incarnations),
            stored=dict(self.stored),
        )

    def key(self) -> object:
        """Equal for worlds with equal futures."""
        return (
            self.crashes,
            self.wipes,
            tuple(
                (
                    name,
                    life.storing,
                    life.begun,
                    life.formation.phase,
                    life.formation.cluster_id,
                    tuple(sorted(life.formation._news.items())),
                    repr(life.formation),
                )
                for name, life in sorted(self.lives.items())
            ),
            tuple(sorted(self.disks.items(), key=lambda item: item[0])),
            tuple(sorted(self.links.items())),
            tuple(sorted(self.stored.items())),
            self.begun_ids,
            self.promised,
            self.broke,
            self.foreign,
        )

    # -- what may happen next -----------------------------------------------------------------------------------------

    def steps(self) -> list[Step]:
        found: list[Step] = []
        for name in NAMES:
            life = self.lives.get(name)
            if life is None:
                if name not in self.foreign:
                    found.append(("start", name))
                continue
            if life.storing is not None:
                found.append(("persist", name))
            if life.begun and not self.disks[name].has_log:
                found.append(("campaign", name))
            if self.crashes:
                found.append(("crash", name))
                if life.storing is not None:
                    found.append(("crash after the write", name))
                if self.wipes:
                    found.append(("lose the disk", name))
        for one in NAMES:
            for other in NAMES:
                if one == other:
                    continue
                if (one, other) in self.links:
                    if self.links[one, other] and other in self.lives:
                        found.append(("deliver", one, other))
                elif one in self.lives and other in self.lives:
                    found.append(("link", one, other))
                if self._may_vote(one, other):
                    found.append(("vote", one, other))
        return found

    def _may_vote(self, candidate: str, voter: str) -> bool:
        return (
            voter not in self.promised
            and self.disks[candidate].has_log
            and all(name in self.lives and self.lives[name].begun for name in (candidate, voter))
        )

    def do(self, step: Step) -> None:
        kind, name = step[0], step[1]
        if kind == "start":
            self._start(name)
        elif kind == "persist":
            self._persist(name)
        elif kind == "campaign":
            self.disks[name] = replace(self.disks[name], has_log=True)
        elif kind == "vote":
            self.disks[step[2]] = replace(self.disks[step[2]], has_log=True)
            self._promise(name)
            self._promise(step[2])
        elif kind == "deliver":
            self._deliver(name, step[2])
        elif kind == "link":
            self._link(name, step[2])
        else:
            self._crash(name, kind)

    # -- how it happens -----------------------------------------------------------------------------------------------

    def _start(self, name: str) -> None:
        disk = self.disks[name]
        self.incarnations[name] += 1
        formation = Formation.resume(
            is_first=name == FIRST,
            peers=tuple(other for other in NAMES if other != name),
            fresh_id=f"{name}.{self.incarnations[name]}".encode(),
            cluster_id=disk.cluster_id,
            has_log=disk.has_log or disk.quarantined,
        )
        self.lives[name] = Life(formation)
        for link in [link for link in self.links if link[0] == name]:
            del self.links[link]            # its dialler is new
        self._perform(name, formation.start())

    def _persist(self, name: str) -> None:
        life = self.lives[name]
        assert life.storing is not None
        (cluster_id, quarantined), life.storing = life.storing, None
        self._write(name, cluster_id, quarantined)
        self._perform(name, life.formation.stored(cluster_id, quarantined=quarantined))

    def _write(self, name: str, cluster_id: bytes, quarantined: bool) -> None:
        assert self.disks[name].cluster_id is None, "an id is never replaced"
        self.disks[name] = Disk(cluster_id, quarantined)
        self.stored[name] |= {cluster_id}

    def _promise(self, name: str) -> None:
        if not self.disks[name].quarantined:
            self.promised |= {name}

    def _deliver(self, one: str, other: str) -> None:
        message, *rest = self.links[one, other]
        self.links[one, other] = tuple(rest)
        formation = self.lives[other].formation
        if message[0] == "form":
            self._perform(other, formation.asked(message[1]))       # type: ignore[arg-type]
        else:
            self._perform(other, formation.heard(one, message[1], message[2]))      # type: ignore[arg-type]

    def _link(self, one: str, other: str) -> None:
        self.links[one, other] = ()
        self._perform(one, self.lives[one].formation.linked())
        if other in self.lives:             # it answers the hello over its own link
            formation = self.lives[other].formation
            self._send(other, one, ("news", formation.phase, formation.cluster_id))

    def _crash(self, name: str, kind: str) -> None:
        life = self.lives.pop(name)
        self.crashes -= 1
        if kind == "crash after the write":
            assert life.storing is not None
            self._write(name, *life.storing)
        elif kind == "lose the disk":
            self.wipes -= 1
            self.wiped = True
            self.disks[name] = Disk()
            if name in self.promised:
                self.promised -= {name}
                self.broke |= {name}
        self._stop(name)

    def _stop(self, name: str) -> None:
        """Links to it end; what it sent last may still arrive."""
        self.lives.pop(name, None)
        for link in [link for link in self.links if link[1] == name]:
            del self.links[link]

    def _send(self, one: str, other: str, message: tuple[object, ...]) -> None:
        queue = self.links.get((one, other))
        if queue is not None and queue[-1:] != (message,):      # to say it twice in a row changes nothing
            self.links[one, other] = (*queue, message)

    def _perform(self, name: str, actions: list[Action]) -> None:
        life = self.lives[name]
        for action in actions:
            if isinstance(action, Announce | SendForm):
                formation = life.formation
                message: tuple[object, ...] = (
                    ("news", formation.phase, formation.cluster_id)
                    if isinstance(action, Announce)
                    else ("form", action.cluster_id)
                )
                for other in NAMES:
                    if other != name:
                        self._send(name, other, message)
            elif isinstance(action, Store | Quarantine):
                assert life.storing is None, "it stores two things at once"
                life.storing = (action.cluster_id, isinstance(action, Quarantine))
            elif isinstance(action, Begin):
                life.begun = True
                self._check_begin(name, action.cluster_id)
            else:
                assert isinstance(action, Foreign)
                self.foreign |= {name}
                self._stop(name)
                return

    # -- what must hold -----------------------------------------------------------------------------------------------

    def _check_begin(self, name: str, cluster_id: bytes) -> None:
        disk = self.disks[name]
        assert disk.cluster_id == cluster_id, f"{name} begins with what is not on its disk"
        self.begun_ids |= {cluster_id}
        assert len(self.begun_ids) == 1, f"two clusters: {sorted(self.begun_ids)}"
        for other in NAMES:
            assert cluster_id in self.stored[other], f"{name} begins before {other} has stored"
        assert disk.quarantined or name not in self.broke, f"{name} lost what it had promised and counts all the same"

    def settle(self) -> None:
        """Lets everything happen that must, until nothing more does; then everyone has begun."""
        quiet = {"crash", "crash after the write", "lose the disk", "campaign", "vote"}
        for _ in range(1_000):
            steps = [step for step in self.steps() if step[0] not in quiet]
            if not steps:
                break
            self.do(steps[0])
        else:
            raise AssertionError("they never come to rest")
        if self.foreign:
            assert self.wiped, f"{sorted(self.foreign)} stopped although no disk was lost"
            return
        for name in NAMES:
            assert self.lives[name].begun, f"{name} does not begin"
            assert self.lives[name].formation.phase == FORMED
