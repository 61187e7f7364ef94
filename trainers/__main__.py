"""The command line `utgrec NAME ...`, also as `python -m trainers NAME ...`."""

import difflib
import sys
from collections.abc import Sequence

from trainers.commands import COMMANDS, run_command

USAGE = "usage: utgrec COMMAND [--flag VALUE ...]"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the command line names; returns the exit code."""
    name, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(USAGE, "\n")
        print("\n".join(f"  {command:<21}{summary}" for command, summary in COMMANDS.items()))
        print("\nutgrec COMMAND --help shows the flags of a command; UTGREC_TRACEBACK=1 where an error was found.")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.4)
        said = f"did you mean {near[0]}?" if near else "see utgrec --help."
        print(f"{USAGE}\nutgrec: error: no command {name!r}: {said}", file=sys.stderr)
        return 2
    try:
        run_command(name, rest)
    except KeyboardInterrupt:
        print("\nutgrec: interrupted.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
