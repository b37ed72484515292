"""TensorRT plans. The serving image runs this package, so it needs numpy and TensorRT only."""
