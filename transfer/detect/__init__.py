"""Detectron2: configuration, weights and the proof that they arrived, training, evaluation, result."""

import logging

# torch warns once a process of a function that Detectron2 asks before each forward pass; nothing follows from it.
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
