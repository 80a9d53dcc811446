"""What everything stands on and what knows nothing of pre-training: errors, atomic files, strict configuration, images, weight files."""
