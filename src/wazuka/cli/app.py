"""`wazuka`: every command, with nothing heavy imported before one is chosen.

A user's mistake is one line on stderr and exit code 2; a fault of ours is 1; checks that found an issue are 3.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback

import typer

from wazuka import __version__
from wazuka.cli import datasets, export, models, pretraining, studies, synthetic, tools
from wazuka.core.errors import WazukaError, nearest

PATH_FAULTS = {
    errno.ENAMETOOLONG: "give a shorter one",
    errno.ENOTDIR: "give a path whose every part but the last is a folder",
    errno.EISDIR: "give a file",
    errno.EEXIST: "give another path",
    errno.ELOOP: "remove the link that points to itself",
    errno.EACCES: "give a path that you may read or write, or change its permissions",
    errno.EPERM: "give a path that you may read or write, or change its permissions",
    errno.EROFS: "give a path on a disk that may be written to",
    errno.ENOSPC: "free some room or choose another --out or --cache folder",
    errno.EDQUOT: "free some room or choose another --out or --cache folder",
    errno.EFBIG: "raise the limit on file sizes or choose another --out or --cache folder",
}
"""What a path or a disk refuses, whichever command meets it, and what would be right: no fault of ours."""

INTERRUPTED = 130
STOPPED = "Stopped. The same command goes on where this one stopped."

app = typer.Typer(
    name="wazuka",
    help="Which way of getting more from few labels pays off on your own medical images?\n\n"
    "Example: wazuka poc my-images/ --out runs/first",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    """Which way of getting more from few labels pays off on your own medical images?

    Example: wazuka poc my-images/ --out runs/first
    """
    if version:
        typer.echo(f"wazuka {__version__}")
        raise typer.Exit


for group in (studies, datasets, models, synthetic, pretraining, export, tools):
    group.register(app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that this terminal cannot show stops no command
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; errors become one line on stderr."""
    command = typer.main.get_command(app)
    try:
        result = command.main(args=arguments, prog_name="wazuka", standalone_mode=False)
        code = int(result or 0)
        return _fail(STOPPED, code) if code == INTERRUPTED else code  # the library turns Ctrl-C into this exit code
    except WazukaError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail(STOPPED, INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        own = getattr(error, "exit_code", None)
        if type(error).__name__ in ("Exit", "NoArgsIsHelpError") and own is not None:
            shown = getattr(error, "format_message", str)()
            if type(error).__name__ == "NoArgsIsHelpError" and shown:
                typer.echo(shown)
                return 0
            return int(own)
        if type(error).__name__ == "Abort":
            return _fail(STOPPED, INTERRUPTED)
        if hasattr(error, "format_message"):
            return _fail(_usage(error, command), 2)
        if isinstance(error, OSError) and error.errno in PATH_FAULTS:
            where = error.filename2 or error.filename or "A file"
            return _fail(f"{where} is refused by the system ({error.strerror}); {PATH_FAULTS[error.errno]}.", 2)
        traceback.print_exc()
        return _fail(f"Internal error: {type(error).__name__}: {error}. Please report it with the lines above.", 1)


def _usage(error: Exception, command: object) -> str:
    """A usage error in one line, with the nearest known command where one was mistyped."""
    message = " ".join(error.format_message().split())  # type: ignore[attr-defined]
    if message.startswith("No such command"):
        given = message.split("'")[1]
        known = sorted(getattr(command, "commands", {}))
        close = nearest(given, known)
        hint = f" Did you mean `{close}`?" if close else ""
        return f"Unknown command `{given}`.{hint} Known: {', '.join(known)}."
    return message if message.endswith((".", "?", ")")) else f"{message}."


def _fail(message: str, code: int) -> int:
    print(f"wazuka: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return code
