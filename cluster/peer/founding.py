"""Carries out a formation: stores what it decides, and tells the other brokers."""

from collections.abc import Callable, Sequence

from cluster.peer.errors import BrokerRefused
from cluster.peer.formation import Action, Announce, Begin, Formation, Quarantine, SendForm, Store
from cluster.peer.links import BrokerLinks
from cluster.storage.wal import Wal
from cluster.wire import Form, FormationNews


class Founding:
    """The shell of `Formation`; `begin(cluster_id)` is called once elections may run."""

    def __init__(
        self,
        formation: Formation,
        wal: Wal,
        links: BrokerLinks,
        names: Sequence[str],
        directory: str,
        begin: Callable[[bytes], None],
    ) -> None:
        self.formation = formation
        self._wal = wal
        self._links = links
        self._names = tuple(names)
        self._directory = directory
        self._begin = begin

    @property
    def news(self) -> FormationNews:
        return FormationNews(self.formation.phase, self.formation.cluster_id)

    def start(self) -> None:
        self._perform(self.formation.start())

    def linked(self) -> None:
        self._perform(self.formation.linked())

    def heard(self, node: str, news: FormationNews) -> None:
        self._perform(self.formation.heard(node, news.phase, news.cluster_id))

    def asked(self, form: Form) -> None:
        self._perform(self.formation.asked(form.cluster_id))

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Announce):
                self._links.send_all(self.news)
            elif isinstance(action, SendForm):
                self._links.send_all(Form(action.cluster_id, self._names))
            elif isinstance(action, Store):
                self._store(action.cluster_id, "")
            elif isinstance(action, Quarantine):
                self._store(action.cluster_id, "this broker came empty to a cluster that had formed")
            elif isinstance(action, Begin):
                self._begin(action.cluster_id)
            else:
                raise BrokerRefused(
                    f"{self._directory} belongs to another cluster than {action.node}: "
                    f"{self.formation.cluster_id.hex()} here, {action.cluster_id.hex()} there"
                )

    def _store(self, cluster_id: bytes, quarantine: str) -> None:
        self._wal.store_formation(
            cluster_id,
            self._names,
            quarantine=quarantine,
            done=lambda: self._perform(self.formation.stored(cluster_id, quarantined=bool(quarantine))),
        )
