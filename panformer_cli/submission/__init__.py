"""Write and check submission zips for test servers and evaluation scripts."""
