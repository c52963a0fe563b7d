"""From a cell's step to a program that engines compile."""
