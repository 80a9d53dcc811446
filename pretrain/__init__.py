"""Contrastive pre-training: images in, a checkpoint out. Read train.py first."""
