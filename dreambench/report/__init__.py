"""From statements to pages: tables, figures and image grids; the only place that rounds."""
