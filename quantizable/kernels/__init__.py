"""The elementwise work of fake quantization on a CPU as loops of one pass, where they can be built."""
