"""Counts the words of all `*.txt` in a folder:

    python -m cluster.launch examples/word_count/topology.toml      # in a terminal of its own
    python -m examples.word_count.pipeline examples/word_count/topology.toml FOLDER REPORT [--leave]

Everything is submitted at once; the cluster runs each step when what it needs is there. With `--leave` the script says
the id of the last step and does not wait: nothing of the rest needs it.
"""

import argparse
import sys
from pathlib import Path

from cluster import BlockingHandle, Client, after, group
from examples.word_count.tasks import Words, count, merge, read, write


def main() -> None:
    parser = argparse.ArgumentParser(description="Count the words of all texts in a folder.")
    parser.add_argument("topology")
    parser.add_argument("folder", type=Path)
    parser.add_argument("report", type=Path)
    parser.add_argument("--leave", action="store_true", help="do not wait for the report")
    options = parser.parse_args()
    paths = sorted(path.resolve() for path in options.folder.glob("*.txt"))
    if not paths:
        parser.error(f"{options.folder} is no folder with *.txt")
    files, names = [str(path) for path in paths], [path.name for path in paths]
    with Client.open(options.topology) as cluster:
        texts = cluster.map(read, files)
        parts: list[BlockingHandle[Words]] = [
            cluster.submit(count, path, after(text)) for path, text in zip(files, texts.members(), strict=True)
        ]
        merged = cluster.submit(merge, names, group(parts, outcomes=True))
        written = cluster.submit(write, after(merged), str(options.report.resolve()))
        if options.leave:
            sys.stdout.write(f"{written.id}\n")
        else:
            sys.stdout.write(f"{written.result()} of {len(files)} files are in {options.report}\n")


if __name__ == "__main__":
    main()
