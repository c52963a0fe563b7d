"""A program as Triton kernels, for cells that no library has a kernel for, on a GPU."""
