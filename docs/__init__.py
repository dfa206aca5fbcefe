"""The site: its pages, what generates and tests them, and the browser that draws pictures."""
