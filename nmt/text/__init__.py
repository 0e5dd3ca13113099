"""From text to pieces and back: normalisation, vocabulary, tokenizers; no torch."""
