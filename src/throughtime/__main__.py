"""`python -m throughtime`, for launchers that start a module: `accelerate launch -m throughtime train ...`."""

from throughtime.cli import main

main()
