"""Files that are, or contain, pickles, read without running them. Read torch_files.py first."""
