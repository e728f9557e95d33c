"""Studies: grids of methods, seeds, models and settings, trained, evaluated and compared, one cell after another."""
