"""Networks of motion: MDM."""
