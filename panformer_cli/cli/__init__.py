"""The command line: `main` runs the program, and every other module or folder is a command or shared code."""
