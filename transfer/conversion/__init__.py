"""Any checkpoint in, weights for another library out, with proof. Read convert.py first."""
