"""Job execution: tasks that write files, run by workers in processes or Ray actors, with retries and timeouts.

tasks.py        the interface: Task, Worker, Executor
scheduler.py    which worker does which task, when workers are replaced
worker.py       the worker's side: opening, errors, log
processes.py    executors in this process and in worker processes
ray_actors.py   the executor on a Ray cluster
open.py         the executor that settings name
progress.py     progress of an executor
"""
