"""What a run leaves and what it runs on: folder, checkpoint, log, ranks, schedule, precision."""
