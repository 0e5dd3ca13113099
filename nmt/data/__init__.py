"""From text files to batches on a device, resumable at every batch."""
