"""The loss, the optimiser, the schedule and the loop."""
