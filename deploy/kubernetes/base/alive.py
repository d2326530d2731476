"""Whether a code server still has the process that serves its code: `python -I alive.py PORT`, exit code 1 if not.

Kubernetes restarts it then, for Dagster does not (1.13): its gRPC health service goes on to say SERVING. It imports
gRPC and nothing of Dagster, so it costs a tenth of what Dagster's own health check does. One that is busy is alive.
"""

import sys

import grpc

LIMIT_S = 5


def main(port: str) -> int:
    """The exit code; the message needs no encoding, for it has no fields."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        server_id = channel.unary_unary("/api.DagsterApi/GetServerId")
        try:
            server_id(b"", timeout=LIMIT_S)
        except grpc.RpcError as error:
            sys.stderr.write(f"{error}\n")
            return 0 if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
