"""What an experiment would take on a cluster: a short calibration here, and a cost model (``model.py``)."""
