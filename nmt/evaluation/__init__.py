"""Metrics with signatures: strings in, numbers out."""
