"""What a model answers, and the labelled examples that it learns each task from."""
