"""Sends a newsletter of a tenant, while the cluster and a mail server run, each in a terminal of its own:

    python -m examples.mailer.sink 127.0.0.1:8025 mails.jsonl
    python -m cluster.launch examples/mailer/topology.toml
    python -m examples.mailer.newsletter examples/mailer/topology.toml TENANT NEWSLETTER [READER]...

Without readers they are lines of the standard input. To call it again sends nothing twice: what was submitted by an
earlier call is followed.
"""

import argparse
import asyncio
import sys

from cluster import Client, ClusterError
from examples.mailer.tasks import Letter, mail_of


async def send_all(topology: str, letters: list[Letter]) -> int:
    """Returns how many of them could not be sent."""
    failed = repeated = 0
    async with Client.connect(topology) as cluster:
        handles = await asyncio.gather(*[cluster.submit(mail_of(letter), letter) for letter in letters])
        for letter, handle in zip(letters, handles, strict=True):
            try:
                await handle
            except ClusterError as error:
                failed += 1
                sys.stderr.write(f"{letter.to}: {error}\n")
            repeated += handle.duplicate_of is not None
    say = f"{len(letters) - failed} of {len(letters)} sent"
    sys.stdout.write(f"{say}, {repeated} of them by an earlier call\n" if repeated else f"{say}\n")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description="Sends a newsletter of a tenant.")
    parser.add_argument("topology")
    parser.add_argument("tenant")
    parser.add_argument("newsletter")
    parser.add_argument("readers", nargs="*")
    options = parser.parse_args()
    readers = dict.fromkeys(options.readers or sys.stdin.read().split())       # who stands there twice gets one mail
    letters = [
        Letter(options.tenant, options.newsletter, reader, f"Dear {reader}, there is news.") for reader in readers
    ]
    return 1 if asyncio.run(send_all(options.topology, letters)) else 0


if __name__ == "__main__":
    sys.exit(main())
