"""Experiment trackers: TensorBoard, Weights & Biases, MLflow and Trackio, which receive the metrics of all stages."""
