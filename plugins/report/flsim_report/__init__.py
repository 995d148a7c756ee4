"""flsim report: recorded runs as one HTML page, as a figure, and as a trace for Perfetto."""
