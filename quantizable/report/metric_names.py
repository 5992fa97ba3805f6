"""Names under which a run logs what compares its modes, beside the metrics of each mode (``val/top1/4``)."""

THROUGHPUT = "throughput/images_per_second"
# a row for each mode and validation
AGAINST_BITS = ("against_bits/bits", "against_bits/top1", "against_bits/epoch")
TABLE = "modes"  # behind the stage, as test/modes; a row for each mode
COSTS = ("cost/gbops", "cost/megabytes")  # before the mode: 10^9 bit operations of an image, 10^6 bytes
