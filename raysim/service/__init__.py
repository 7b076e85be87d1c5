"""Runs on a cluster, seen from the laptop: submitted through Ray Jobs, watched, stopped, fetched.

connection.py   a dashboard's address and token, and one clear paragraph where it cannot be reached
cluster.py      what is asked of it: jobs, their logs, a file
packing.py      what goes there: experiment, code, and the command that finds an interpreter
submitting.py   a run submitted once, again on purpose, or resumed
studies.py      a study: every variant with every seed as a run
job.py          the job itself, on the cluster
lines.py        the lines it writes, read back
states.py       what state a run is in
fetching.py     a run's folder brought here; handing.py is the job that hands it over

Nothing but the dashboard's port is needed, and nothing that comes back is unpickled.
"""
