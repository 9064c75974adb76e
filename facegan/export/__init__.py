"""A trained generator for other programs: weights, graphs, and the page that says what they are."""
