"""One training step of somebody's own model, taken and measured with everything; or of the nets of a study."""
