"""What a person sees in the terminal, and the pictures that commands write."""
