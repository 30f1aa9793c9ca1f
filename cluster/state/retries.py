"""Retries: whether a task that raised is tried again, and when.

The pause grows with each failure and is drawn by lot, so that a thousand tasks which failed together, say because a
server was away, do not all come back to it in the same moment. The lot is drawn from what every replica knows: the
task's id and how often it has failed.
"""

from zlib import crc32

from cluster.state.commands import KINDS_MAX, RETRIES_MAX, Failure, RetryRule
from cluster.state.ledger import RETRIED
from cluster.state.queues import DELAYED, PENDING, Spec
from cluster.state.tables import Tables
from cluster.state.tasks import Task
from cluster.state.timers import READY

BY_DEFAULT = RetryRule()
GROWTHS_MAX = 64            # of a pause: by then one that doubles has reached every cap
JITTER_STEPS = 1_024


def is_retried(task: Task, failure: Failure | None) -> bool:
    """Whether a task whose attempt ended with this failure is tried again."""
    spec = task.spec
    if failure is None or task.failures >= min(spec.retries, RETRIES_MAX):
        return False
    on, kinds = _rule(spec).on, failure.kinds[:KINDS_MAX]
    return bool(kinds) and (not on or any(kind in on for kind in kinds))


def retry(tables: Tables, task: Task) -> None:
    """A task that was taken from its slot waits for its next attempt."""
    task.failures += 1
    task.attempt += 1
    tables.ledger.moved(task.id)
    wait_ms = wait_of(_rule(task.spec), task.id, task.failures)
    channel = tables.queues.channels[task.spec.channel]
    tables.ledger.decisions += (RETRIED, task.id, tables.now_ms + wait_ms)
    if wait_ms:
        task.state = DELAYED
        channel.queue.delayed += 1
        tables.timers.add(tables.now_ms + wait_ms, task.id, 1, READY)
    else:
        task.state = PENDING
        channel.append_again(task)


def wait_of(rule: RetryRule, task: int, failures: int) -> int:
    """The pause before the retry that follows on so many failures, in milliseconds."""
    growth: int = rule.factor ** min(failures - 1, GROWTHS_MAX)
    wait_ms = min(rule.cap_ms, rule.first_ms * growth)
    if rule.jitter:
        lot = crc32(b"%d %d" % (task, failures)) % JITTER_STEPS
        wait_ms -= wait_ms * lot // (2 * JITTER_STEPS)
    return wait_ms


def _rule(spec: Spec) -> RetryRule:
    return spec.retry or BY_DEFAULT
