"""Read corpus files of any supported format and compression into documents."""
