"""Real object stores for the tests: Ceph's S3 gateway, Azurite and a Google Cloud Storage emulator.

`install.py` installs them, `ceph.py`, `azurite.py` and `gcs.py` start them on 127.0.0.1 at ports that are free,
`fixtures.py` gives tests fresh places on them, and `fault_proxy.py` stands in front of one and goes wrong at chosen
calls.
"""
