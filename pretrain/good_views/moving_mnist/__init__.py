"""Colorful Moving-MNIST: what two views share is what their encoders learn. Read factors.py and pairs.py first."""
