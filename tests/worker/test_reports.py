"""What a worker tells of its tasks' progress: what has changed, and all of it to a new leader."""

from cluster.worker.reports import REPORT_INTERVAL_NS, REPORT_TASKS_MAX, Reports


def test_only_what_has_changed_is_said():
    reports = Reports()
    assert reports.take(1, [(1, 1, 5, 10), (2, 1, 0, -1)]) == [1, 1, 5, 10, 2, 1, 0, -1]
    assert reports.take(2, [(1, 1, 5, 10), (2, 1, 1, -1)]) == [2, 1, 1, -1]
    assert reports.take(3, [(1, 2, 5, 10), (2, 1, 1, -1)]) == [1, 2, 5, 10]


def test_a_new_leader_is_told_all():
    reports = Reports()
    reports.take(1, [(1, 1, 5, 10)])
    reports.forget()
    assert reports.take(2, [(1, 1, 5, 10)]) == [1, 1, 5, 10]


def test_it_is_said_twice_a_second_at_most():
    reports = Reports()
    start = 10 * REPORT_INTERVAL_NS
    assert reports.is_due(start)
    reports.take(start, [(1, 1, 5, 10)])
    assert not reports.is_due(start + REPORT_INTERVAL_NS - 1)
    assert reports.is_due(start + REPORT_INTERVAL_NS)


def test_what_one_message_does_not_hold_is_said_the_next_time():
    reports = Reports()
    rows = [(task, 1, 1, 2) for task in range(REPORT_TASKS_MAX + 10)]
    assert len(reports.take(1, rows)) == REPORT_TASKS_MAX * 4
    assert len(reports.take(2, rows)) == 10 * 4
    assert reports.take(3, rows) == []
