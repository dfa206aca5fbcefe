"""HTML pages: the explanation of one text, and the server's playground."""
