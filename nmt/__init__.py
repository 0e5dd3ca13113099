"""A toolkit that trains, runs and judges neural sequence-to-sequence models."""
