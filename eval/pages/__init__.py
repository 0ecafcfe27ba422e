"""Pages of a report: what is at its paths, tables in three formats, charts, one self-contained HTML page."""
