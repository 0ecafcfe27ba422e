"""Methods compared: matched runs over seeds, their numbers with intervals, the comparison in words and as a file."""
