"""The command line, `quorumq` or `python -m cluster`: one module for each group of commands, listed in `main`."""
