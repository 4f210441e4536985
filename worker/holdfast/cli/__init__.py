"""The command line, `holdfast`.

Exit status: 0 good, 1 something bad was found or happened, 2 wrong use. A user's mistake gives one sentence on stderr,
never a traceback. Each command is a module of this package that is imported on demand. Nothing here imports TensorFlow
or gRPC, so that `holdfast --help` answers at once.
"""

from __future__ import annotations

import importlib
import keyword
from typing import Any

import click

from holdfast_storage.errors import HoldfastError, InvalidRequest
from holdfast_storage.printable import printable

# In the order of `holdfast --help`: first those for a run, then those for a storage and the service, then the demo.
_COMMANDS = (
    *("ls", "show", "verify", "status", "save-now", "pin", "unpin", "tag", "untag", "rollback", "rm", "gc"),
    *("diff", "cp", "mv", "materialize", "export", "import"),
    *("doctor", "coordinator", "demo", "demo-ps"),
)


class _Commands(click.Group):
    """The group of all commands. It imports them on demand, and turns errors into a sentence and a status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        name = cmd_name.replace("-", "_") + "_" * keyword.iskeyword(cmd_name)
        module = importlib.import_module(f"{__name__}.{name}")
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HoldfastError as error:
            click.echo(f"holdfast: {error}", err=True)
            ctx.exit(2 if isinstance(error, InvalidRequest) else 1)
        except click.UsageError as error:  # it repeats an argument, perhaps a name that a shell's pattern found
            error.message = printable(error.message)  # type: ignore[misc]
            raise


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="holdfast")
def main() -> None:
    """Inspect the checkpoints of distributed TensorFlow training, and run the service that commits them.

    RUN is a run directory: a local path or any URL that fsspec knows. RUN@STEP is the latest checkpoint of that step.
    RUN@TAG, wherever a step can stand, is the one that `holdfast tag` has given that name.
    Exit status: 0 good, 1 something bad was found, 2 wrong use.
    """
