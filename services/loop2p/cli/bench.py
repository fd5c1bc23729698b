"""`loop2p bench`: speeds, as distributions and ratios measured in one run on a machine that is named."""

import typer

app = typer.Typer(no_args_is_help=True, help=__doc__)
