"""Split text into sentences, words and pieces; this package does not need Beam."""
