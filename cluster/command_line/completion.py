"""`completion`: the script that lets a shell complete the command line."""

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes `quorumq` in a shell.

    For bash, put this into ~/.bashrc: eval "$(quorumq completion bash)". For zsh likewise into ~/.zshrc; for fish:
    quorumq completion fish > ~/.config/fish/completions/quorumq.fish
    """
    # Completion goes by the name of a program: `python -m cluster` begins with another one's.
    from cluster.command_line.main import COMPLETION_VARIABLE, PROGRAM

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, PROGRAM, COMPLETION_VARIABLE).source())
