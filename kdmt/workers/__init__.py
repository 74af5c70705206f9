"""Job execution: tasks that write files, run by workers in processes or Ray actors, with retries and timeouts.

tasks.py        the interface: Task, Worker, Executor
scheduler.py    assignment of tasks to workers, replacement of workers
worker.py       code of the worker process: opening, errors, log
processes.py    executors in this process and in worker processes
ray_actors.py   the executor on a Ray cluster
open.py         the executor that the settings select
progress.py     progress of an executor
"""
