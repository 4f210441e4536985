"""Parameter servers: each writes what it holds straight to storage, and nothing of it passes through the chief.

In every server's process works an *agent* (`agent`), a member of the world like any worker. The chief calls it by
TensorFlow itself (`fleet`), which hands it the server's variables where they lie. `table` learns what lies where, `cut`
takes a snapshot on all servers, `spread` restores one, `world` is what the chief's manager works with. On the servers,
`saving` and `restoring` do what they are told. docs/design/028-parameter-servers.md and 032-restore-on-servers.md say
why.
"""
