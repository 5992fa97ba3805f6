"""What is kept on disk, and how it comes back: checkpoints, ``.qz`` files, assignments, journals."""
