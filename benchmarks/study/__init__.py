"""The study: methods in matched runs under a budget of time, and the page that says what was found."""
