"""How long a person waits for `throughtime --help`, beside Python that starts and does nothing."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.table import Row, paired

LIMIT = 0.5  # seconds


def rows() -> list[Row]:
    def helped() -> None:
        code = "import sys; sys.argv = ['throughtime', '--help']; from throughtime.cli import main; main()"
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

    def nothing() -> None:
        subprocess.run([sys.executable, "-c", "pass"], check=True)

    times = paired(helped, nothing, repeats=3, warmup=1)
    row = times.row("start", "throughtime --help", "python -c pass")
    return [Row(row.comparison, row.size, row.ours, row.peer, row.peer_name, row.unit, row.ratio,
                f"{row.note}; ours at most {LIMIT * 1e3:.0f} ms")]  # fmt: skip
