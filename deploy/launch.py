"""Give this worker its TF_CONFIG, then become the training program: launch.py COMMAND [ARGUMENT...]

In a Kubernetes Indexed Job the place of a pod in the world is its completion index. TF_CONFIG is made from

    JOB_COMPLETION_INDEX  set by Kubernetes
    WORKERS               number of workers: the Job's `completions`
    WORKER_ADDRESS        address of a worker, with {index} for its index

Without JOB_COMPLETION_INDEX the environment is left as it is: whoever starts the container has set TF_CONFIG, or the
program trains alone. The program replaces this process, so signals and exit status are its own. Wrong use: status 2.
"""

import json
import os
import sys
from collections.abc import Mapping


def tf_config(environment: Mapping[str, str]) -> str:
    """The TF_CONFIG of this pod. A KeyError or ValueError if the environment does not describe its place in a world."""
    index, workers = int(environment["JOB_COMPLETION_INDEX"]), int(environment["WORKERS"])
    address = environment["WORKER_ADDRESS"]
    if not 0 <= index < workers:
        raise ValueError(f"JOB_COMPLETION_INDEX={index} is not below WORKERS={workers}; is that the Job's completions?")
    if "{index}" not in address:
        raise ValueError(f"WORKER_ADDRESS={address!r} has no {{index}}, so all workers would have the same address")
    return json.dumps(
        {
            "cluster": {"worker": [address.replace("{index}", str(task)) for task in range(workers)]},
            "task": {"type": "worker", "index": index},
        }
    )


def main(command: list[str]) -> None:
    if not command:
        print("launch.py: no command given", file=sys.stderr)
        sys.exit(2)
    if "JOB_COMPLETION_INDEX" in os.environ:
        try:
            os.environ["TF_CONFIG"] = tf_config(os.environ)
        except KeyError as missing:
            print(f"launch.py: JOB_COMPLETION_INDEX is set and {missing} is not", file=sys.stderr)
            sys.exit(2)
        except ValueError as error:
            print(f"launch.py: {error}", file=sys.stderr)
            sys.exit(2)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
