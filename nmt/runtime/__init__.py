"""The machine: device, precision, seeds, files, locks, logs."""
