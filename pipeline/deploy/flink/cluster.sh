#!/usr/bin/env bash
# A standing Flink cluster on this machine and a pool of Python workers, until Ctrl-C. A job for it:
#
#     clozeline preprocess ... --runner=FlinkRunner --flink_version=1.19 \
#         --flink_job_server_jar=build/flink/job-server.jar --flink_master=127.0.0.1:8081 \
#         --environment_type=EXTERNAL --environment_config=127.0.0.1:50000 --parallelism=2
set -euo pipefail

REST_PORT=${REST_PORT:-8081} RPC_PORT=${RPC_PORT:-6123} WORKER_POOL_PORT=${WORKER_POOL_PORT:-50000}
here=$(cd "$(dirname "$0")" && pwd)
jar=$here/../../../build/flink/job-server.jar
ports="-D rest.port=$REST_PORT -D jobmanager.rpc.port=$RPC_PORT"
[ -e "$jar" ] || { echo "no $jar: run 'make test-flink', which builds it" >&2; exit 2; }
# The pool starts each worker as the `python` that it finds.
export PATH=$here/../../../.venv/bin:$PATH

trap 'trap - EXIT; kill $(jobs -p) 2>/dev/null; wait' EXIT
flink=org.apache.flink.runtime
java -cp "$jar" $flink.entrypoint.StandaloneSessionClusterEntrypoint --configDir "$here/conf" $ports &
java -Xmx640m -cp "$jar" $flink.taskexecutor.TaskManagerRunner --configDir "$here/conf" $ports &
python -m apache_beam.runners.worker.worker_pool_main --service_port "$WORKER_POOL_PORT" &
wait -n  # whichever ends first ends all
