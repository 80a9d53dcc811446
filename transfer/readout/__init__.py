"""The linear readout of a frozen encoder."""
