"""A mail server that delivers nothing: it writes down who was to get what, and when.

    python -m examples.mailer.sink 127.0.0.1:8025 mails.jsonl

It needs aiosmtpd, which `make venv` and `pip install ".[examples]"` install.
A mail whose Message-ID it has already is taken, and not written again, as a reader's program would do it.
"""

import asyncio
import json
import sys
import time
from email import message_from_bytes, policy
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session


class Sink:
    """Writes a line of JSON for each mail."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._known: set[str] = set()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.original_content or b""
        mail = message_from_bytes(content, policy=policy.default)
        number = str(mail["Message-ID"])
        if number not in self._known:
            self._known.add(number)
            row = {"at": time.time(), "from": envelope.mail_from, "to": envelope.rcpt_tos, "id": number}
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        return "250 OK"


async def serve(address: str, path: Path) -> None:
    host, _, port = address.rpartition(":")
    sink = Sink(path)
    server = await asyncio.get_running_loop().create_server(lambda: SMTP(sink), host, int(port))
    sys.stdout.write(f"mails to {address} go to {path}\n")
    sys.stdout.flush()
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2])))
