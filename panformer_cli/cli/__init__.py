"""The command line. `main` finds the command; every other module or folder is one command, or what several share."""
