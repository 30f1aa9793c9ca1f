"""The task: one mail, sent once over a mail server that all tenants share.

The server takes RATE mails, over at most CONNECTIONS connections: more would be refused, or cost the sender its good
name. Both hold for all workers together, and the tenants take turns, so a newsletter to a million readers delays
nobody else's.
"""

import os
import smtplib
from email.message import EmailMessage

from msgspec import Struct

from cluster import Backoff, Task, current, task

SERVER = os.environ.get("MAILER_SMTP", "127.0.0.1:8025")
RATE = "20/s"
CONNECTIONS = 4
SMTP = {"limit": f"smtp {SERVER}", "rate": RATE, "concurrency": CONNECTIONS}
REPEATED = "7d"             # for so long nobody is written to twice by one newsletter


class Letter(Struct, frozen=True):
    """One mail of a newsletter of a tenant."""

    tenant: str
    newsletter: str
    to: str
    text: str


@task(timeout="1m", retry=Backoff(5, "2s", "1m", on=(OSError, smtplib.SMTPException)), dedup_window=REPEATED, **SMTP)
def send(letter: Letter) -> str:
    """Returns the Message-ID.

    It is that of the task, the same in every attempt: a server, or a reader's program, knows by it a mail that it has.
    """
    mail = EmailMessage()
    mail["From"] = f"news@{letter.tenant}.example"
    mail["To"] = letter.to
    mail["Subject"] = letter.newsletter
    mail["Message-ID"] = f"<{current().id}@mailer.example>"
    mail.set_content(letter.text)
    host, _, port = SERVER.rpartition(":")
    with smtplib.SMTP(host, int(port), timeout=20) as server:
        server.send_message(mail)
    return str(mail["Message-ID"])


def mail_of(letter: Letter) -> Task[[Letter], str]:
    """How this letter is sent: in the line of its tenant, and once, however often somebody asks for it."""
    return send.options(share=letter.tenant, dedup=f"{letter.tenant} {letter.newsletter} {letter.to}")
