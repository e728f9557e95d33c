"""The commands of the command line. Each module defines the options of one command and prints its results."""
