"""What is trained: encoder, heads, memory, momentum, BatchNorm groups, loss, and the contrastive methods."""
