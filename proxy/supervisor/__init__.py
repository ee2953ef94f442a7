"""Several workers on one port, and the process that starts, watches, reloads and ends them.

Theory of operation. Three kinds of process, all one program:

- The **supervisor** is the process that was started. It has the admin port, the signals and the configuration, and
  serves no client.
- The **nursery** is forked from it after everything has been imported and before there is an event loop or a thread.
  All it does is fork workers and wait for them. A fork of a process with threads may copy a lock that nobody will ever
  release; the supervisor has threads, the nursery never has any. Measured with two workers (PSS): all four processes
  take 98 MB, a worker 25 MB of them; as new interpreters the workers alone would take 112 MB, and each 0.8 s of a
  processor to import what a forked one has already. A worker is ready 0.15 s after its fork.
- The **workers** are sidecars with a role. They open what they use (event loop, threads, the cache file, the port)
  after the fork, each for itself.

A worker and its supervisor hold the two ends of a channel. Its end of file tells the worker that the supervisor is
gone, however it went: the worker ends at once, so that nothing is left behind that nobody controls.
"""
