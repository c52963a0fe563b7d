"""Kernels for the processor: C++ from a traced step, compiled once and kept."""
