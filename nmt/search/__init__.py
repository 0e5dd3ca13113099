"""The batched beam search; sees only the model protocol."""
