"""Images, plots and the page that people look at."""
