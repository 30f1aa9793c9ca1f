"""`python -m cluster`, the same as the installed `quorumq`: starts the command line."""

from cluster.command_line.main import run

if __name__ == "__main__":
    run()
