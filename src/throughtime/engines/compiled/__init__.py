"""What the engines of compiled kernels have in common: plans, packed rows, a sequence under autograd."""
