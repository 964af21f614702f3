"""Submissions: the zips that test servers and their evaluation scripts take, and what is wrong with one."""
