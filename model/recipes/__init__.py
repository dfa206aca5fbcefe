"""Named hyperparameters for pretraining: `NAME.yaml` has values of `PretrainConfig` by name."""
