"""Looks into any torch model while it is trained: finds its recurrent layers, and catches what they did in a step."""
