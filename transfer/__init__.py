"""Transfer: a checkpoint in, a linear readout, a detector, an AP table and a report out."""
