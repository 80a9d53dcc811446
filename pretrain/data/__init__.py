"""Which images a run reads, in which order, and the loader that makes batches of views of them."""
