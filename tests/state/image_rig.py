"""Machines that are restored from their images, and the property that nobody can tell."""

from collections.abc import Iterable

import msgspec
from random_stream import Stream
from state_rig import encode_entry

from cluster.state.commands import (
    Command,
    Options,
    Seen,
)
from cluster.state.effects import Effects
from cluster.state.machine import Machine
from cluster.state.restoration import Restoration

PART_SLACK = 1_024      # around the rows of a part


def restore(parts: Iterable[bytes]) -> Machine:
    restoration = Restoration()
    for part in parts:
        restoration.add(part)
    return restoration.finish()


def values(effects: Effects) -> dict[str, object]:
    return {name: getattr(effects, name) for name in Effects.__slots__}


def assert_equal(restored: Machine, machine: Machine) -> None:
    assert restored.applied_index == machine.applied_index
    assert restored.rolling == machine.rolling
    assert restored.digest == machine.digest
    assert restored.full_digest() == machine.full_digest()
    assert restored.status() == machine.status()
    assert restored.next_deadline_ms() == machine.next_deadline_ms()


def assert_goes_on_alike(log: list[bytes], cut: int) -> None:
    """The property: whoever is restored at the cut and applies the rest decides as who never stopped."""
    machine = Machine()
    for index, payload in enumerate(log[:cut], 1):
        machine.apply(index, 1, payload, None)
    parts = list(machine.image())
    restored = restore(parts)
    restored.check()
    assert_equal(restored, machine)
    assert list(restored.image()) == parts
    for index, payload in enumerate(log[cut:], cut + 1):
        effects, restored_effects = Effects(), Effects()
        machine.apply(index, 1, payload, effects)
        restored.apply(index, 1, payload, restored_effects)
        assert values(restored_effects) == values(effects), f"entry {index}"
        assert restored.rolling == machine.rolling, f"entry {index}"
    assert_equal(restored, machine)


def assert_restored_before_every_entry(log: list[bytes]) -> Machine:
    machine, restored = Machine(), Machine()
    for index, payload in enumerate(log, 1):
        parts = list(restored.image())
        restored = restore(parts)
        assert list(restored.image()) == parts
        effects, restored_effects = Effects(), Effects()
        machine.apply(index, 1, payload, effects)
        restored.apply(index, 1, payload, restored_effects)
        restored.check()
        assert values(restored_effects) == values(effects), f"entry {index}"
        assert_equal(restored, machine)
    return machine


class ForgetfulStream(Stream):
    """Time passes faster, results are kept for seconds, and clients say what they have seen."""

    def run(self, entries: int, check: bool) -> None:
        for _ in range(entries):
            self.now_ms += self.random.choice((1, 300, 1_000, 8_000))
            commands = [self._command() for _ in range(self.random.choice((1, 2, 6)))]
            self.log.append(encode_entry(*[command for command in commands if command is not None], now_ms=self.now_ms))
            effects = Effects()
            self.machine.apply(len(self.log), 1, self.log[-1], effects)
            self._watch(effects)

    def _command(self) -> Command | None:
        if self.clients and self.random.random() < 0.1:
            client = self.random.choice(self.clients)
            first = self.random.randint(1, max(1, self.numbers.get(client, 1)))
            return Seen(client, [first, first + self.random.choice((0, 30, 200))])
        return super()._command()

    def _options(self) -> Options | None:
        options = super()._options()
        if options is None:
            return None
        ttl_ms = self.random.choice((options.result_ttl_ms, 0, 1_000, 20_000))
        return msgspec.structs.replace(options, result_ttl_ms=ttl_ms)


def log_of(seed: int, entries: int, kind: type[Stream] = Stream) -> list[bytes]:
    stream = kind(seed)
    stream.run(entries, check=False)
    return stream.log
