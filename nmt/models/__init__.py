"""Encoders, decoders and the protocol between them: tensors only."""
