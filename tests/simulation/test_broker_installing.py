"""What is on the disk while a snapshot from a leader takes the place of log and state."""

from transfer_rig import MODES, caught_up, compacted, installs, left_behind, rig_of, snapshots_of


@MODES
def test_older_snapshots_stay_until_the_log_has_durably_begun_anew_behind_the_installed_one(mode):
    """Until then a start may find the old log: it needs them, if the new one cannot be read."""
    with rig_of(mode=mode) as rig:
        rig.submit(5)
        compacted(rig, *rig.brokers.values())
        leader, victim = left_behind(rig)
        older = set(snapshots_of(victim))
        assert older
        _, header = victim.segments()[0]
        begins = header.meta.start.index
        removed_early: list[str] = []

        def watch() -> None:
            _, header = victim.segments()[0]
            if older - set(victim.disk.paths()) and header.meta.start.index == begins:
                removed_early.append("gone")

        victim.process.machine.disk_slowness = 200
        rig.start(victim)
        rig.until(lambda: watch() or installs(rig, victim))
        rig.until(lambda: watch() or not older & set(victim.disk.paths()))
        assert removed_early == []
        victim.process.machine.disk_slowness = 1
        caught_up(rig, leader, victim)
        rig.heal()
