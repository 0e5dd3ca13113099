"""From text to text: translator, scorer, validation."""
