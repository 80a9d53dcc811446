"""How one image becomes views: operations, recipes made of them, the jigsaw. To add an augmentation see operations.py."""
