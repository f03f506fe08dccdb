"""The command line: `oneprior COMMAND ...`. A command is a file here: its settings, which import no torch, and `run`.

Exit codes: 0 done, 1 failed, 2 wrong use or bad input, 130 interrupted (what was saved stays).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "demo": "the whole idea in a few minutes: train on handwritten digits, use the result in every way, report",
    "inspect": "look over a folder of pictures or scans, and suggest how to train on it",
    "train": "train a prior on a folder of pictures, an array file or a named data set",
    "sample": "draw samples; sample i depends on its seed alone",
    "restore": "undo masks, blur or low resolution: draws given a measurement",
    "compare": "restorations side by side: one measurement, start noise and budget of calls for each picture",
    "classify": "which class explains a picture best",
    "features": "what a layer of the network says of pictures, as vectors and as maps",
    "edit": "turn pictures of one class into another, keeping what can be kept",
    "animate": "pictures to clips that begin with them, by a prior of clips",
    "interpolate": "clips from one picture to another",
    "extend": "what follows a clip, as long as wanted",
    "likelihood": "log p(x) and bits per dimension",
    "match": "which point of one picture is which point of another",
    "dimension": "local intrinsic dimension of the data at a picture, as a curve",
    "evaluate": "measure a prior on held-out data, each figure beside its null",
    "reproduce": "measure what papers claim, each figure beside its bar; a verdict that can be no",
    "info": "versions, devices and shipped priors; or the facts of a prior",
}

OVERVIEW = """usage: oneprior COMMAND [options]

One diffusion prior, every use.

{commands}

oneprior COMMAND --help     what a command takes
oneprior --version

In every command: --json prints the result for machines, --config FILE reads settings from YAML (flags come on top),
--debug shows the traceback of an error.
Exit codes: 0 done, 1 failed, 2 wrong use or bad input, 130 interrupted (what was saved stays)."""

BAD_INPUT = (ValueError, TypeError, KeyError, IndexError, FileNotFoundError, FileExistsError, NotADirectoryError)
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (that of the process unless given) and return its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(OVERVIEW.format(commands="\n".join(f"  {name:<11} {what}" for name, what in COMMANDS.items())))
        return 0 if args else 2
    if args[0] in ("--version", "-V"):
        from oneprior import __version__

        print(f"oneprior {__version__}")
        return 0
    name, rest = args[0], args[1:]
    if name not in COMMANDS:
        return _fail(f"oneprior has no command '{name}'{_close(name)}; there are {', '.join(COMMANDS)}", 2)
    try:
        from oneprior.cli.options import parse

        module = import_module(f"oneprior.cli.{name}")
        return int(module.run(parse(module, name, rest), ["oneprior", *args]))
    except SystemExit as e:  # after --help, or a flag that does not parse
        return e.code if isinstance(e.code, int) else 2
    except KeyboardInterrupt:
        return _fail("interrupted; what was saved stays", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as e:
        if "--debug" in rest:
            import traceback

            traceback.print_exc()
        return _fail(_said(e), 2 if isinstance(e, BAD_INPUT) else 1)


def _said(e: Exception) -> str:
    if isinstance(e, OSError) and e.strerror:
        return e.strerror if e.filename is None else f"{e.strerror}: {e.filename}"
    text = str(e.args[0]) if isinstance(e, KeyError) and e.args else str(e)
    known = isinstance(e, (*BAD_INPUT, OSError, FloatingPointError)) or type(e).__module__.startswith("oneprior")
    return text if known and text else f"{type(e).__name__}: {text} (--debug shows where)"


def _fail(text: str, code: int) -> int:
    if not int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))):  # of several processes, one speaks
        print(f"error: {text}" if code != INTERRUPTED else text, file=sys.stderr)
    return code


def _close(name: str) -> str:
    from difflib import get_close_matches

    found = get_close_matches(name, COMMANDS, 1)
    return f" (did you mean {found[0]}?)" if found else ""
