"""The pages that people open in a browser: the explanation and the playground."""
