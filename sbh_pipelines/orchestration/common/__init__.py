"""What every job shares: the service as a resource, partitions, batches, failures, run tags, timetables."""
