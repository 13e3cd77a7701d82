"""`jobs` is the work, `sharing` is what its workers share, `cli` is the command line."""
