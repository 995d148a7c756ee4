"""The serial backend: ClientApps one after another, in the driver's own process."""
