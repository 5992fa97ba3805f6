"""What a user meets: errors in one line, the words that options take, names imported when asked for."""
