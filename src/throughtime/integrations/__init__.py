"""Callbacks for training loops of somebody else's; each is in a file of its own, which alone loads what it is for."""
