"""The pictures of the README, and the browser that makes them."""
