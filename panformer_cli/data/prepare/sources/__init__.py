"""One module for each form that data comes in, and what several of them share."""
