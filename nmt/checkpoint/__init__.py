"""Weights, the model folder and the state that a run resumes from."""
