"""What is measured of a network: cost, latency, uncertainty."""
