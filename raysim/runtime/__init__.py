"""Running an experiment: hosts in this process or in Ray actors, the coordinator, checkpoints. The only folder with Ray."""
