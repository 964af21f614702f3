"""The first step of a run with a loss or gradient that is not finite: its file, and computing it again."""
