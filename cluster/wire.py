"""Messages between processes, one union per role of the sender: a role can only say what its union contains.

Tags below 32 are commands (`cluster.state.commands`), which travel as they are written into the log.
"""

from msgspec import Raw, Struct

from cluster.state.commands import (
    Acquire,
    Cancel,
    Close,
    Complete,
    Drain,
    Extend,
    Register,
    Release,
    Replay,
    Resize,
    Seen,
    Steer,
    Submit,
    WorkerSpec,
)
from cluster.state.effects import Answer, Assignment, ClaimNews, Registered, TaskResult
from cluster.state.lock_rows import Holder, LockRow
from cluster.state.schedule_rows import ScheduleView
from cluster.state.task_rows import TaskDetails, TaskRow

WIRE_VERSION = 1
HELLO_ITEMS_MAX = 4_096     # of a list of ids in one message; longer ones are continued
BODY_BYTES_MAX = 1024 * 1024
MESSAGE_BYTES_MAX = 8 * 1024 * 1024

# Of a TaskEvent.
EVENT_QUEUED = 0        # it waits, for the first time
EVENT_STARTED = 1
EVENT_PROGRESS = 2
EVENT_RETRYING = 3      # it raised or took too long, and waits to be tried again
EVENT_REQUEUED = 4      # its process or its worker was lost, and it waits to run again
EVENT_FINISHED = 5      # for good
EVENT_UNKNOWN = 6       # there is no such task
NO_TOTAL = -1           # a task that did not say how much there is to do
WATCHED_TASKS_MAX = 1_000_000   # of one client, by Watch and by Follow each
END_LIMIT_MS_MAX = 24 * 60 * 60 * 1_000     # of EndNode: for what runs at a worker
CUT_OFF_UNKNOWN = -1    # of StandingBy: its worker has not said it

ROLE_BROKER = 0
ROLE_WORKER = 1
ROLE_CLIENT = 2


class Message(Struct, array_like=True, gc=False, frozen=True):
    """Base of all messages."""


class Hello(Message, tag=32, frozen=True):
    """Anyone -> whom it dialled, first in every session. Owes: Welcome.

    A refused hello (another cluster, wire version or group) is answered with Refused and the peer is dropped.
    """

    cluster: str
    node: str
    incarnation: int
    role: int
    wire_version: int = WIRE_VERSION
    group: int = 0
    principal: str = ""
    broker: "BrokerState | None" = None
    worker: WorkerSpec | None = None
    session: int = 0            # of a worker or client that has one


class BrokerState(Message, frozen=True):
    """What a broker's log holds when it says hello."""

    cluster_id: bytes
    term: int
    last_index: int
    last_term: int
    quarantined: bool


class Welcome(Message, tag=33, frozen=True):
    """Broker -> dialler: the hello was accepted. `leader` is "" while none is known."""

    node: str
    incarnation: int
    term: int
    leader: str


class Refused(Message, tag=34, frozen=True):
    """Broker -> dialler: nothing from you will be read, for this reason. `for_good`: nor from whoever says the same."""

    reason: str
    for_good: bool = False


class LeaderIs(Message, tag=35, frozen=True):
    """Broker -> everyone linked to it, when it becomes leader or learns of one. Owes (to a leader): Holding, Watch,
    and every unanswered session command again, in order."""

    term: int
    node: str


class Following(Message, tag=49, frozen=True):
    """Worker or client -> every broker, every 500 ms: I follow `node` ("" = nobody) in this term. Owes: LeaderIs if the
    broker knows better. It also finds out links whose other side is gone without a word: a broker that does not lead
    would otherwise never be sent anything."""

    term: int
    node: str


class Lease(Message, tag=36, frozen=True):
    """Worker or client -> leader, every 500 ms; `sent` is its own clock. Owes: LeaseAck once the leader knows it led
    after this arrived. `running` = ids that run now (workers), for status."""

    session: int
    sent: int
    running: tuple[int, ...] = ()
    children: tuple[int, ...] = ()
    pid: int = 0


class LeaseAck(Message, tag=37, frozen=True):
    """Leader -> holder: your lease counts from `sent`. To a worker that has slots to open: so many tasks wait for them
    (its share, if other workers could open slots for the same tasks), and the oldest has waited for `oldest_ms`."""

    session: int
    sent: int
    ready: int = 0
    oldest_ms: int = 0


class Holding(Message, tag=38, frozen=True):
    """Worker -> new leader: every (task, attempt) it holds or has finished without an answer, flat [t, a, t, a, ...].
    Continued while `more`. Owes: assignments it lacks, Withdraw of those it should not hold."""

    session: int
    term: int
    pairs: list[int]
    more: bool


class Assignments(Message, tag=39, frozen=True):
    """Leader -> worker: run these. A worker drops those of a term below the highest leader term it knows, and pairs
    that it holds already."""

    term: int
    session: int
    items: list[Assignment]


class Withdraw(Message, tag=40, frozen=True):
    """Leader -> worker: give these pairs up, flat [task, attempt, ...]; kill what runs. Owes: nothing."""

    term: int
    session: int
    pairs: list[int]


class Stop(Message, tag=59, frozen=True):
    """Leader -> worker: these attempts are cancelled, flat [task, attempt, grace_ms, ...]: ask what runs to stop, and
    end it after its grace. Owes: an outcome of each."""

    term: int
    session: int
    items: list[int]


class Answers(Message, tag=41, frozen=True):
    """Leader -> worker or client: fates of session commands."""

    items: list[Answer]


class RegisterAnswer(Message, tag=42, frozen=True):
    """Leader -> worker or client: fate of its registration."""

    answer: Registered


class Results(Message, tag=43, frozen=True):
    """Leader -> client: terminal records, pushed to the submitting session or asked for by Watch."""

    items: list[TaskResult]


class Watch(Message, tag=44, frozen=True):
    """Client -> leader: I wait for these ids (again after every change of leader). Owes: Results for those that are
    terminal now and later; Unknown for those that the state does not have, once the leader knows it led after this
    arrived."""

    tasks: list[int]


class Unknown(Message, tag=45, frozen=True):
    """Leader -> client: no such tasks (never submitted, or evicted)."""

    tasks: list[int]


class Overload(Message, tag=46, frozen=True):
    """Leader -> client: this submit was not proposed; send it again after `retry_after_ms`. `reason` is for people."""

    session: int
    seq: int
    retry_after_ms: int
    reason: str = ""


class StatusRequest(Message, tag=47, frozen=True):
    """Client -> any broker. Owes: StatusReply with what this broker knows; the leader's part only from a leader that
    knows it led after this arrived. `stale`: at once, with that part as it is here."""

    request: int
    stale: bool = False


class StatusReply(Message, tag=48, frozen=True):
    """Broker -> client: msgpack of a map, shaped as in `python -m cluster status --json`."""

    request: int
    report: Raw


class Describe(Message, tag=54, frozen=True):
    """Client -> leader. Owes: Described, with a row for each task, in order, once the leader knows it led after this
    arrived. `stale`: client -> any broker, which answers at once, as things are there."""

    request: int
    tasks: list[int]
    stale: bool = False


class Record(Message, frozen=True):
    """What the state has of one task: its state by name ("unknown" if it has none), and its attempts so far."""

    task: int
    state: str
    attempts: int


class Described(Message, tag=55, frozen=True):
    """Leader -> client, or any broker if it was asked for stale ones: the records asked for."""

    request: int
    records: list[Record]


class RaftMessage(Message, tag=50, frozen=True):
    """Broker -> broker: one message of the Raft core, as `cluster.raft.wire` encodes it."""

    data: bytes


class FormationNews(Message, tag=51, frozen=True):
    """Broker -> broker, on every link and every change: how far its formation is (`cluster.peer.formation`)."""

    phase: int
    cluster_id: bytes


class Form(Message, tag=52, frozen=True):
    """First broker of the topology -> the others: store this. Owes: FormationNews once it is durable."""

    cluster_id: bytes
    voters: tuple[str, ...]


class ClockNews(Message, tag=53, frozen=True):
    """Broker -> broker, once a second: its wall clock, for the leader's stamp, and its newest digest, to compare. Also
    when `lacks_room` changes: its disk is full, so it should be given no more than it must. With `needs_state` it is
    quarantined, or could not start from its disk any more: others should not rely on it. `compacting` is the entry of
    the snapshot that it makes and will offer to the others, 0 if it makes none. `ending`: an operator wants it to end,
    and it will, unless it hears that another one does; told at once."""

    wall_ms: int
    digest_index: int = 0
    digest: int = 0
    lacks_room: bool = False
    needs_state: bool = False
    applied_index: int = 0
    compacting: int = 0
    ending: bool = False


class SnapshotOffer(Message, tag=56, frozen=True):
    """Leader -> follower that is too far behind for the log: this snapshot file is yours. Owes: SnapshotWant.

    `header` and `footer` are the file's own, `message` the core's, for the follower's core when it has the whole file.
    An empty one: broker -> broker, a copy of what this one has made, so that the other need not make its own.
    """

    header: bytes
    footer: bytes
    message: bytes


class SnapshotChunk(Message, tag=57, frozen=True):
    """Who offered it -> who wants it, on the bulk channel: one chunk of the snapshot of entry `index`, as it is in the
    file. Owes: SnapshotWant."""

    index: int
    number: int
    data: bytes


class SnapshotWant(Message, tag=58, frozen=True):
    """The answer to both: it has every chunk before `chunk`. With `refused`, it wants no more of them, for this
    reason. `is_copy`: of what was offered without a message for the core."""

    index: int
    chunk: int
    refused: str = ""
    is_copy: bool = False


class ListTasks(Message, tag=60, frozen=True):
    """Client -> leader: tasks of these states, this queue and this name (() and "" take all) behind the cursor `after`,
    0 at first. Owes: TaskRows, with at most `limit` rows and perhaps none, once the leader knows it led after this
    arrived. `stale`: client -> any broker, which answers at once, as things are there."""

    request: int
    after: int
    limit: int
    states: tuple[str, ...] = ()
    queue: str = ""
    name: str = ""
    stale: bool = False


class TaskRows(Message, tag=61, frozen=True):
    """The answer: rows, and the cursor to go on from; 0 if there is nothing behind them."""

    request: int
    rows: list[TaskRow]
    after: int


class ShowTask(Message, tag=62, frozen=True):
    """Client -> leader: all about one task. Owes: TaskShown, when and from whom as of ListTasks."""

    request: int
    task: int
    stale: bool = False


class TaskShown(Message, tag=63, frozen=True):
    """The answer; `found` is None if the state has no such task. `progress` is done and total (or NO_TOTAL), as what
    runs has said last; None if it has said nothing, or this broker does not lead."""

    request: int
    found: TaskDetails | None
    progress: tuple[int, int] | None = None


class EndNode(Message, tag=64, frozen=True):
    """Client -> a broker that is to end itself, or the leader, which passes it on to a worker as End. Owes: NodeAnswer.

    `pid` is that of the process that is meant: a request that is said twice ends nothing twice. 0 for a worker that
    stands by. With `again` the node's launch starts it anew, else a worker stays out. `limit_ms` is how long what runs
    at a worker may go on, 0 = the worker's own limit.
    """

    request: int
    node: str
    pid: int
    again: bool
    limit_ms: int = 0


class End(Message, tag=65, frozen=True):
    """Leader -> worker: drain and end, as an operator asked with EndNode. To a stand-in, with `again`: the worker is to
    come back. Owes: nothing; the session's end tells."""

    again: bool
    limit_ms: int = 0


class NodeAnswer(Message, tag=66, frozen=True):
    """Broker -> client: the request is on its way, or `refusal` says why not. Also of any other question with a number
    that will not be answered."""

    request: int
    refusal: str = ""


class StandingBy(Message, tag=67, frozen=True):
    """Stand-in of a drained worker, at its launch -> leader, over each new link: this worker stays out until an End
    asks it back. Not `stands`: that is over. `cut_off` tasks still ran when the limit of the drain was over: they were
    ended, and went back."""

    stands: bool = True
    cut_off: int = CUT_OFF_UNKNOWN


class Progress(Message, tag=68, frozen=True):
    """Worker -> leader, at most every 500 ms, and all again to a new one: how far what runs says it is, where that has
    changed. Flat [task, attempt, done, total, ...], total NO_TOTAL if it is not known. Never logged. Owes: nothing."""

    session: int
    items: list[int]


class Follow(Message, tag=69, frozen=True):
    """Client -> leader: tell what happens to these tasks, at most HELLO_ITEMS_MAX (again after every change of leader).
    Owes: Events, first of how each is now, then of what changes, up to the one that says it has ended. With `stop`: no
    more of them."""

    tasks: list[int]
    stop: bool = False


class TaskEvent(Message, frozen=True):
    """One change of a task, or how it is. `kind` is one of EVENT_*; `total` may be NO_TOTAL. `text` says why, and of a
    task that has ended its state. `log` is what the attempt logged that ended last, in events that tell of such an end
    and in the first."""

    task: int
    kind: int
    at_ms: int
    attempt: int
    worker: str = ""
    done: int = 0
    total: int = NO_TOTAL
    text: str = ""
    log: str = ""


class Events(Message, tag=70, frozen=True):
    """Leader -> client that follows tasks: what happened to them, in order. If more happens than the link takes,
    the last that happened to each task is kept for later."""

    items: list[TaskEvent]


class Claims(Message, tag=71, frozen=True):
    """Client -> leader: what has become of these claims of this session, at most HELLO_ITEMS_MAX (asked of every new
    leader, over every new link, and now and then while one waits)? `sent` is its own clock. Owes: ClaimsNews of those
    that do not wait, once the leader knows it led after this arrived."""

    session: int
    claims: list[int]
    sent: int = 0


class ClaimsNews(Message, tag=72, frozen=True):
    """Leader -> client: what became of its claims; as an answer with the `sent` of the question."""

    session: int
    items: list[ClaimNews]
    sent: int = 0


class GiveUpClaims(Message, tag=81, frozen=True):
    """Client -> leader: these claims of this session, at most HELLO_ITEMS_MAX, are to end although their Release is
    held up, by a submit before it that is not taken. Owes: ClaimsNews that they have ended."""

    session: int
    claims: list[int]


class WatchLock(Message, tag=73, frozen=True):
    """Client -> leader: tell who holds this lock (again after every change of leader). Owes: LockIs now, once the
    leader knows it led after this arrived, and after every change. With `stop`: no more of them."""

    name: str
    stop: bool = False


class LockIs(Message, tag=74, frozen=True):
    """Leader -> client that watches a lock: who holds it, in order of their fences, and how many wait. The first
    HOLDERS_SHOWN of them; `held` is how many there are. If changes come faster than the link takes them, only the
    last is told."""

    name: str
    holders: list[Holder]
    held: int
    waiting: int


class ListLocks(Message, tag=75, frozen=True):
    """Client -> leader: the locks behind the name `after` that begin with `prefix`, in order. Owes: LockRows, at most
    `limit` of them, once the leader knows it led after this arrived. `stale`: client -> any broker, at once. With
    `name`: that lock, if anybody claims it, and no other."""

    request: int
    after: str
    limit: int
    prefix: str = ""
    stale: bool = False
    name: str = ""


class LockRows(Message, tag=76, frozen=True):
    """The answer. `more`: there are others behind the last."""

    request: int
    rows: list[LockRow]
    more: bool


class ListSchedules(Message, tag=77, frozen=True):
    """Client -> leader: the schedules behind the name `after` that begin with `prefix`, in order. Owes: ScheduleRows,
    at most `limit` of them, once the leader knows it led after this arrived. `stale`: client -> any broker, at once."""

    request: int
    after: str
    limit: int
    prefix: str = ""
    stale: bool = False


class ScheduleRows(Message, tag=78, frozen=True):
    """The answer. `more`: there are others behind the last."""

    request: int
    rows: list[ScheduleView]
    more: bool


class ShowSchedule(Message, tag=79, frozen=True):
    """Client -> leader: all about one schedule. Owes: ScheduleShown, when and from whom as of ListSchedules."""

    request: int
    name: str
    stale: bool = False


class ScheduleShown(Message, tag=80, frozen=True):
    """The answer; `found` is None if there is no such schedule."""

    request: int
    found: ScheduleView | None


FromWorker = Hello | Following | Register | Complete | Drain | Resize | Lease | Holding | Close | Progress | StandingBy
FromClient = (
    Hello
    | Following
    | Register
    | Submit
    | Seen
    | Close
    | Cancel
    | Watch
    | Lease
    | StatusRequest
    | Describe
    | ListTasks
    | ShowTask
    | Replay
    | Follow
    | EndNode
    | Acquire
    | Release
    | Extend
    | Claims
    | GiveUpClaims
    | WatchLock
    | ListLocks
    | Steer
    | ListSchedules
    | ShowSchedule
)
ToWorker = Welcome | Refused | LeaderIs | RegisterAnswer | Assignments | Withdraw | Stop | Answers | LeaseAck | End
ToClient = (
    Welcome
    | Refused
    | LeaderIs
    | RegisterAnswer
    | Answers
    | Results
    | Unknown
    | Overload
    | LeaseAck
    | StatusReply
    | Described
    | TaskRows
    | TaskShown
    | Events
    | NodeAnswer
    | ClaimsNews
    | LockIs
    | LockRows
    | ScheduleRows
    | ScheduleShown
)
ToBroker = Welcome | Refused      # to a broker as a dialler: it hears the rest on its own listener
FromBroker = Hello | RaftMessage | FormationNews | Form | ClockNews | SnapshotOffer | SnapshotChunk | SnapshotWant
