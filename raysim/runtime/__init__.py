"""Running an experiment: in this process or in Ray actors, with checkpoints. The only folder that knows Ray."""
