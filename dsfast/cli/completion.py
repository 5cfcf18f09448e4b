"""``dsfast completion``: what a shell needs to complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

__all__ = ["completion"]

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_DSFAST_COMPLETE"
"""Set by the shell when it asks for completions; click derives the name from that of the program."""


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that makes SHELL complete commands and options.

    \b
    bash:  dsfast completion bash > ~/.local/share/bash-completion/completions/dsfast
    zsh:   dsfast completion zsh > ~/.zfunc/_dsfast      (with ~/.zfunc in fpath)
    fish:  dsfast completion fish > ~/.config/fish/completions/dsfast.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(ctx.find_root().command, {}, "dsfast", VARIABLE).source())
