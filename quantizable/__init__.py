"""One network, every bit-width: train once, switch the precision at run time."""
