"""The commands of the command line beside `probe` and `train`: their options, and what they print."""
