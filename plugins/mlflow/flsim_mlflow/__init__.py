"""flsim-mlflow: runs of flsim in MLflow."""
