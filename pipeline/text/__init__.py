"""Text to sentences, words and pieces: what no other room needs Beam for."""
