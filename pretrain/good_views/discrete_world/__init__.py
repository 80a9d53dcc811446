"""A world small enough to compute every information in it exactly."""
