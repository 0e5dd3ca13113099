"""To and from the models of other programs."""
