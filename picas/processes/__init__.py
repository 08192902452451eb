"""Child processes: starting, supervising and ending them, their output files, and interrupting Python code."""
