"""What tools/gpu_check.py measures on one GPU."""
