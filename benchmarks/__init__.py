"""What `make bench` runs: our figures and the peers', measured in one run."""
