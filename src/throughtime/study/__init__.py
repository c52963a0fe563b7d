"""A run's folder: cells trained side by side on one dataset, looked at before, while and after they learn."""
