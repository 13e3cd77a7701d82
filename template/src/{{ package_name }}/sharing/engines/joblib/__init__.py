"""The engine of joblib: loky's processes on one machine."""
