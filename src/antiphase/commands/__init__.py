"""The commands of the command line, one a module: their options, and what they print."""
