"""The linearised step, and what carries rows back and columns on through it; every measure stands on this."""
