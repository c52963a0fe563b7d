"""The command's first lines: `throughtime`, and `python -m throughtime` for launchers that start a module."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command; until it is loaded, Ctrl-C ends the process without a word."""
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not where it is ignored, as under nohup
    if usual:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from throughtime.cli import main as run

    if usual:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
