"""An explanation for programs, for the terminal, as a page and as a picture."""
