"""Detectron2: configuration, weights and the proof that they arrived, training, evaluation, result."""
